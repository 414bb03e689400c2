"""Move and merge modules, and rewrite every reference to them; nothing else changes.

The plan is a Python file with three tables: MOVES (new module -> the old modules it is made of), RENAMES
("old.module:name" -> new name, where two merged modules use one name for different things) and DOCS (first lines of
merged modules). Needs libcst. Usage: python move_modules.py PLAN [--check]
"""

import re
import runpy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import libcst as cst
from libcst import matchers as m
from libcst.metadata import (
    BuiltinAssignment,
    ImportAssignment,
    MetadataWrapper,
    ParentNodeProvider,
    QualifiedNameProvider,
    ScopeProvider,
)

ROOTS = ("datamodules", "records", "results", "lightning_modules", "sweeps", "emotion", "benchmarks")


def module_of(path):
    parts = list(Path(path).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def dotted(node):
    return node.value if isinstance(node, cst.Name) else f"{dotted(node.value)}.{node.attr.value}"


def undotted(name):
    head, _, tail = name.rpartition(".")
    return cst.Attribute(undotted(head), cst.Name(tail)) if head else cst.Name(tail)


class Plan:
    def __init__(self, path, files):
        values = runpy.run_path(path)
        self.moves, self.renames, self.docs = values["MOVES"], values.get("RENAMES", {}), values.get("DOCS", {})
        self.packages = values.get("PACKAGES", {})  # new package -> first line of its __init__
        self.path = {module_of(f): f for f in files if f.split("/")[0] in ROOTS}
        self.is_package = {name for name, f in self.path.items() if f.endswith("__init__.py")}
        self.new = {name: name for name in self.path}
        for new, olds in self.moves.items():
            for old in olds:
                if old not in self.path:
                    sys.exit(f"plan: {old} is no module")
                self.new[old] = new
        for key in self.renames:
            if key.partition(":")[0] not in self.path:
                sys.exit(f"plan: rename of {key}")
        self.group = defaultdict(list)
        for old, new in self.new.items():
            self.group[new].append(old)
        for new, olds in self.moves.items():
            extra = [old for old in self.group[new] if old not in olds]
            if extra:
                sys.exit(f"plan: {new} exists and is not in its own list: {extra}")
            self.group[new] = list(olds)

    def name(self, module, name):
        return self.renames.get(f"{module}:{name}", name)

    def resolve(self, base, name):
        """Return ("module", m) or ("name", m, n) of `from base import name`, or None if it is foreign."""
        if f"{base}.{name}" in self.path:
            return ("module", f"{base}.{name}")
        if base in self.path:
            return ("name", base, name)
        return None


class Rewrite(cst.CSTTransformer):
    def __init__(self, replace, imports, drop):
        self.replace, self.imports, self.drop = replace, imports, drop

    def on_leave(self, original, updated):
        if original in self.drop:
            return cst.RemoveFromParent()
        if original in self.imports:
            made = self.imports[original]
            if not made:
                return cst.RemoveFromParent()
            return cst.FlattenSentinel(made) if len(made) > 1 else made[0]
        if original in self.replace:
            new = self.replace[original]
            if isinstance(new, cst.CSTNode):
                return new.with_changes(lpar=updated.lpar, rpar=updated.rpar) if hasattr(updated, "lpar") else new
        return super().on_leave(original, updated)


def rewrite(path, plan, problems):
    """Return the rewritten tree of one file."""
    source = Path(path).read_text()
    here = module_of(path) if path.split("/")[0] in ROOTS else None
    home = plan.new.get(here)
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=False)
    meta = wrapper.resolve_many([ScopeProvider, ParentNodeProvider])
    scopes, parents = meta[ScopeProvider], meta[ParentNodeProvider]
    replace, imports = {}, {}
    all_scopes = {scope for scope in scopes.values() if scope is not None}

    def names_up(node):
        """Names bound between a node and the module, the module left out."""
        scope, bound = scopes.get(node), set()
        while scope is not None and scope.parent is not scope and type(scope).__name__ not in ("GlobalScope", "BuiltinScope"):
            bound |= {a.name for a in scope.assignments}
            scope = scope.parent
        return bound

    def references(node, local):
        found = []
        for scope in all_scopes:
            for assignment in scope.assignments:
                if isinstance(assignment, ImportAssignment) and assignment.node is node and assignment.name.split(".")[0] == local.split(".")[0]:
                    found += [access.node for access in assignment.references]
        return found

    def outer(node):
        parent = parents.get(node)
        return parent if isinstance(parent, cst.Attribute) and parent.value is node else None

    def use_module(old, node, local_node, bare):
        """Rewrite a use of a module binding: MODULE.attr, or the module itself."""
        attribute = outer(local_node)
        new = plan.new[old]
        short = new.rpartition(".")[2]
        if attribute is None:
            if new == home:
                problems.append(f"{path}: module {old} is used as a value inside its own merge")
            replace[local_node] = cst.Name(bare or short)
            return
        attr = attribute.attr.value
        target = plan.name(old, attr)
        if new == home:
            if target in names_up(local_node):
                problems.append(f"{path}: {old}.{attr} would be hidden by a local name {target}")
            replace[attribute] = cst.Name(target)
        else:
            replace[attribute] = cst.Attribute(cst.Name(bare or short), cst.Name(target))

    class Finder(cst.CSTVisitor):
        def visit_ImportFrom(self, node):
            if node.module is None or node.relative or isinstance(node.names, cst.ImportStar):
                return
            base = dotted(node.module)
            made = defaultdict(list)
            touched = False
            for alias in node.names:
                name, asname = alias.name.value, alias.asname.name.value if alias.asname else None
                local = asname or name
                target = plan.resolve(base, name)
                if target is None:
                    made[base].append(alias.with_changes(comma=cst.MaybeSentinel.DEFAULT))
                    continue
                uses = references(node, local)
                uses = [u for u in uses if isinstance(u, (cst.Name, cst.Attribute))]
                heads = []
                for use in uses:
                    while isinstance(use, cst.Attribute):
                        use = use.value
                    if isinstance(use, cst.Name) and use.value == local:
                        heads.append(use)
                if target[0] == "module":
                    old, new = target[1], plan.new[target[1]]
                    package, _, short = new.rpartition(".")
                    if not package:
                        package, short = None, new
                    if new != old or new == home:
                        touched = True
                        keep = asname if asname and asname != old.rpartition(".")[2] else None
                        if new != home and (keep or short) != local:
                            for head in heads:
                                if (keep or short) in names_up(head):
                                    problems.append(f"{path}: module name {keep or short} hidden by a local name")
                        for head in heads:
                            use_module(old, node, head, keep)
                        if new == home:
                            continue
                        made[package].append(cst.ImportAlias(cst.Name(short), asname=cst.AsName(cst.Name(keep)) if keep else None))
                    else:
                        for head in heads:  # the names inside it may be renamed
                            attribute = outer(head)
                            if attribute is not None and f"{old}:{attribute.attr.value}" in plan.renames:
                                replace[attribute] = attribute.with_changes(attr=cst.Name(plan.name(old, attribute.attr.value)))
                        made[base].append(alias.with_changes(comma=cst.MaybeSentinel.DEFAULT))
                    continue
                old, new_name, new = target[1], plan.name(target[1], name), plan.new[target[1]]
                if new == old and new_name == name and new != home:
                    made[base].append(alias.with_changes(comma=cst.MaybeSentinel.DEFAULT))
                    continue
                if new == home and old == here:
                    made[base].append(alias.with_changes(comma=cst.MaybeSentinel.DEFAULT))
                    continue
                touched = True
                after = new_name if (asname is None or new == home) else asname
                if after != local or new == home:
                    for head in heads:
                        if after in names_up(head) - ({local} if after == local else set()):
                            problems.append(f"{path}: {after} (from {old}) hidden by a local name")
                        replace[head] = cst.Name(after)
                if new != home:
                    made[new].append(cst.ImportAlias(cst.Name(new_name), asname=cst.AsName(cst.Name(asname)) if asname else None))
            if touched:
                statements = []
                for module, aliases in made.items():
                    if module is None:
                        statements.append(cst.Import(aliases))
                    else:
                        statements.append(node.with_changes(module=undotted(module), names=aliases, lpar=None, rpar=None))
                imports[node] = statements

        def visit_Import(self, node):
            touched, aliases = False, []
            for alias in node.names:
                name = dotted(alias.name)
                if name in plan.path and plan.new[name] != name:
                    touched = True
                    if plan.new[name] == home:
                        continue
                    if not alias.asname:
                        problems.append(f"{path}: `import {name}` without `as`")
                        continue
                    for head in references(node, alias.asname.name.value):
                        use_module(name, node, head, alias.asname.name.value)
                    aliases.append(cst.ImportAlias(undotted(plan.new[name]), asname=alias.asname))
                else:
                    aliases.append(alias)
            if touched:
                imports[node] = [cst.Import(aliases)] if aliases else []

        def visit_Call(self, node):  # monkeypatch.setattr(module, "name", value)
            if m.matches(node.func, m.Attribute(attr=m.Name("setattr") | m.Name("delattr"))) and len(node.args) > 1:
                first, second = node.args[0].value, node.args[1].value
                if isinstance(first, cst.Name) and isinstance(second, cst.SimpleString):
                    for assignment in scopes[first][first.value] if scopes.get(first) else ():
                        if isinstance(assignment, ImportAssignment) and isinstance(assignment.node, cst.ImportFrom):
                            old = f"{dotted(assignment.node.module)}.{first.value}"
                            key = f"{old}:{second.evaluated_value}"
                            if key in plan.renames:
                                replace[second] = cst.SimpleString(f'"{plan.renames[key]}"')

    wrapper.module.visit(Finder())

    if here is not None:  # renamed definitions of this very module
        for assignment in next(s for s in all_scopes if type(s).__name__ == "GlobalScope").assignments:
            key = f"{here}:{assignment.name}"
            if key not in plan.renames or isinstance(assignment, (ImportAssignment, BuiltinAssignment)):
                continue
            new = plan.renames[key]
            for access in assignment.references:
                node = access.node
                while isinstance(node, cst.Attribute):
                    node = node.value
                if isinstance(node, cst.Name) and node.value == assignment.name:
                    if new in names_up(node):
                        problems.append(f"{path}: {new} hidden by a local name")
                    replace[node] = cst.Name(new)
            node = assignment.node
            if isinstance(node, (cst.FunctionDef, cst.ClassDef)):
                replace[node.name] = cst.Name(new)
            elif isinstance(node, cst.Name):
                replace[node] = cst.Name(new)
            else:
                problems.append(f"{path}: cannot rename {assignment.name} ({type(node).__name__})")
    # empty import lines: drop the whole statement line so that its comment goes, too
    drop = set()
    for node, made in list(imports.items()):
        line = parents[node]
        if len(made) > 1 and isinstance(line, cst.SimpleStatementLine):
            first = line.with_changes(body=[made[0]])
            imports[line] = [first] + [cst.SimpleStatementLine([s]) for s in made[1:]]
            del imports[node]
        elif not made and isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1:
            drop.add(line)
            del imports[node]
    return wrapper.module.visit(Rewrite(replace, imports, drop))


def is_docstring(statement):
    return m.matches(statement, m.SimpleStatementLine(body=[m.Expr(m.SimpleString() | m.ConcatenatedString())]))


def is_import(statement):
    return isinstance(statement, cst.SimpleStatementLine) and all(isinstance(s, (cst.Import, cst.ImportFrom)) for s in statement.body)


def is_all(statement):
    return m.matches(statement, m.SimpleStatementLine(body=[m.Assign(targets=[m.AssignTarget(m.Name("__all__"))])]))


def is_type_checking(statement):
    return m.matches(statement, m.If(test=m.Name("TYPE_CHECKING")))


def top_names(tree):
    """Names that a module's top level binds: {name: what}."""
    defined, imported = {}, {}
    for statement in tree.body:
        if isinstance(statement, (cst.FunctionDef, cst.ClassDef)):
            defined[statement.name.value] = "def"
        elif isinstance(statement, cst.SimpleStatementLine):
            for s in statement.body:
                if isinstance(s, cst.ImportFrom) and s.module is not None:
                    for a in s.names:
                        imported[a.asname.name.value if a.asname else a.name.value] = f"{dotted(s.module)}:{a.name.value}"
                elif isinstance(s, cst.Import):
                    for a in s.names:
                        imported[a.asname.name.value if a.asname else dotted(a.name).split(".")[0]] = (
                            dotted(a.name) if a.asname else dotted(a.name).split(".")[0])
                elif isinstance(s, (cst.Assign, cst.AnnAssign)):
                    targets = [t.target for t in s.targets] if isinstance(s, cst.Assign) else [s.target]
                    for t in targets:
                        for n in m.findall(t, m.Name()) if isinstance(t, (cst.Tuple, cst.List)) else [t]:
                            if isinstance(n, cst.Name):
                                defined[n.value] = "assign"
    return defined, imported


def imports_of(tree, olds, plan):
    """Old modules of a group that a module's top level imports from (names, before rewriting)."""
    found = set()
    for statement in tree.body:
        if is_import(statement):
            for s in statement.body:
                if isinstance(s, cst.ImportFrom) and s.module is not None and not isinstance(s.names, cst.ImportStar):
                    base = dotted(s.module)
                    for a in s.names:
                        target = plan.resolve(base, a.name.value)
                        if target and target[1] in olds:
                            found.add(target[1])
    return found


def ordered(olds, depends):
    done, result = set(), []

    def put(old, above=()):
        if old in done or old in above:
            return
        for other in olds:
            if other in depends[old]:
                put(other, (*above, old))
        if old not in done:
            done.add(old)
            result.append(old)

    for old in olds:
        put(old)
    return result


def merged(new, trees, originals, plan, problems):
    olds = plan.group[new]
    order = ordered(olds, {old: imports_of(originals[old], set(olds), plan) - {old} for old in olds})
    bound = {}
    for old in order:
        defined, imported = top_names(trees[old])
        for name in [*defined, *imported]:
            what = f"def in {old}" if name in defined else imported[name]
            if name in ("__all__",):
                continue
            if name in bound and bound[name] != what:
                problems.append(f"CLASH {new}: {name}: {bound[name]} / {what}")
            bound.setdefault(name, what)
    head, late, rest, doc = [], [], [], None
    for old in order:
        body = list(trees[old].body)
        if body and is_docstring(body[0]):
            if doc is None or old == olds[0]:
                doc = body[0]
            body = body[1:]
        for statement in body:
            if is_import(statement):
                head.append(statement.with_changes(leading_lines=[l for l in statement.leading_lines if l.comment]))
            elif is_type_checking(statement):
                late.append(statement)
            elif is_all(statement) and len(olds) > 1:
                continue
            else:
                rest.append(statement)
    if new in plan.docs:
        doc = cst.parse_statement(f'"""{plan.docs[new]}"""\n')
    code = cst.Module([*([doc] if doc else []), *head, *late, *rest]).code
    return code


def target_path(new, plan):
    package = any(other.startswith(new + ".") for other in plan.group)
    return new.replace(".", "/") + ("/__init__.py" if package else ".py")


def main():
    check = "--check" in sys.argv
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    pythons = [f for f in files if f.endswith(".py") and Path(f).exists()]
    plan = Plan(sys.argv[1], pythons)
    problems, trees, originals = [], {}, {}
    texts = {}
    for path in pythons:
        tree = rewrite(path, plan, problems)
        if path.split("/")[0] in ROOTS:
            trees[module_of(path)] = tree
            originals[module_of(path)] = cst.parse_module(Path(path).read_text())
        else:
            texts[path] = tree.code
    results = {}
    for new, olds in plan.group.items():
        if len(olds) == 1 and new not in plan.docs:
            results[target_path(new, plan)] = trees[olds[0]].code
        else:
            results[target_path(new, plan)] = merged(new, trees, originals, plan, problems)
    for package, line in plan.packages.items():
        results[package.replace(".", "/") + "/__init__.py"] = f'"""{line}"""\n'
    print("\n".join(problems) or "no problem", f"\n{len(results)} modules")
    if check or problems:
        return 1
    changed = {old: new for old, new in plan.new.items() if old != new}
    names = sorted((n for n in changed if "." in n and n not in plan.moves), key=len, reverse=True)
    dotted_re = re.compile(r"(?<![\w./])(" + "|".join(re.escape(n) for n in names) + r")(?=[.:]?\w*)(?!\w)(?:([.:])(\w+))?")
    path_re = re.compile(r"(?<![\w./])(" + "|".join(re.escape(plan.path[n]) for n in names) + r")(?!\w)")
    back = {plan.path[n]: n for n in names}

    def text(value):
        def dot(match):
            old, sep, attr = match.group(1), match.group(2) or "", match.group(3) or ""
            if attr == "py" and sep == ".":
                return match.group(0)
            return changed[old] + sep + plan.name(old, attr)
        value = dotted_re.sub(dot, value)
        return path_re.sub(lambda match: target_path(changed[back[match.group(1)]], plan), value)

    for path in [plan.path[n] for n in plan.path]:
        Path(path).unlink()
    for path, code in results.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text(code))
    for path, code in texts.items():
        Path(path).write_text(text(code))
    for path in files:
        if path.endswith((".md", ".toml", ".yaml", ".yml", ".sh", ".json", "Makefile")) and Path(path).exists():
            before = Path(path).read_text()
            after = text(before)
            if after != before:
                Path(path).write_text(after)
    return 0


sys.exit(main())
