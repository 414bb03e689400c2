"""The lines of a certificate about origin: seed, data, code and settings, each held against where else it stands."""

from collections.abc import Iterator, Mapping
from typing import Any

from records.evidence import Evidence
from records.origin import changed_between, known_commit, lock_of
from records.verdicts import Line, judged, statement, unknown

_UNKNOWN = (None, "", "None", "unknown")


def origin_lines(found: Evidence) -> Iterator[Line]:
    """Check what stands in two places against itself."""
    yield _seed(found)
    yield _settings(found)
    yield _manifest(found)
    yield _labels(found)
    yield _code(found)
    yield _lock(found)
    ended = [found.status, *(["deleted"] if found.deleted else [])]
    whole = ended == ["FINISHED"]
    yield Line("the run finished", "holds" if whole else "fails", " and ".join(ended))


@statement("the seed is stated, and the same everywhere")
def _seed(text: str, found: Evidence) -> Line:
    tagged = found.tags.get("seed", "")
    said: dict[str, object] = {"tag": tagged.split(",")[0], "parameter": found.params.get("seed_everything")}
    said["config"] = found.config.get("seed_everything")
    for name in ("folds", "seeds"):
        if name in found.tables:
            ran = ",".join(str(one) for one in found.tables[name]["seed"].drop_duplicates())
            if tagged != ran:
                return judged(text, [f"tag {tagged or 'none'}, table of {name} {ran}"], "")
            said[f"table of {name}"] = ran.split(",")[0]
    return _agree(text, said)


@statement("parameters and tags are those of the config")
def _settings(text: str, found: Evidence) -> Line:
    """Check parameters and tags against the config; a cross-validation keeps the config of its first fold."""
    if not found.config:
        return unknown(text, "the run kept no config")
    config = _flat(found.config)
    resumed = {key.removeprefix("resumed."): value for key, value in found.tags.items() if key.startswith("resumed.")}
    faults = []
    if found.params:
        held = {**found.params, **resumed}
        names = sorted(name for name in {*config, *held} if not _same(config.get(name), held.get(name)))
        shown = ", ".join(f"{one} is {held.get(one, 'absent')}, in the config {config.get(one)}" for one in names[:3])
        faults += [f"{len(names)} differ: {shown}"] * bool(names)
    elif not found.folded:
        faults.append("it has a config, but no parameters")
    faults += [f"tag {name} is {found.tags.get(name)}, but {why}" for name, why in _other_tags(found, config)]
    return judged(text, faults, f"{len(config)} options")


def _other_tags(found: Evidence, config: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    folds = found.split["fold"].drop_duplicates().tolist()
    if found.folded:
        if found.tags.get("folds", str(len(folds))) != str(len(folds)):
            yield "folds", f"the split table has {len(folds)}"
    else:
        if found.tags.get("fold") not in (None, "", *map(str, folds)):
            yield "fold", f"the split table is of fold {folds[0]}"
        recipe = config.get("run.recipe")
        if recipe is not None and found.tags.get("recipe", recipe) != recipe:
            yield "recipe", f"the config is of {recipe}"
        placed = config.get("data.fold")
        if config.get("data.split") == "folds" and placed != str(folds[0]):
            yield "fold", f"the config is of fold {placed}"
    name = found.dataset.get("name")
    if name and found.tags.get("data", name) != name:
        yield "data", f"the data set is {name}"


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in options.items():
        inner = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": str(value)}
    return flat


def _same(held: str | None, logged: str | None) -> bool:
    if held is None or logged is None:
        return False
    return held == logged or (len(logged) >= 500 and held.startswith(logged))  # MLflow cuts long ones


@statement("the manifest hash is stated, and the same everywhere")
def _manifest(text: str, found: Evidence) -> Line:
    tag, digest = found.tags.get("manifest", ""), str(found.dataset.get("digest", ""))
    if tag and not (len(tag) == 64 and set(tag) <= set("0123456789abcdef")):
        return judged(text, ["the tag is not a SHA-256"], "")
    others = [one.name for one in found.members if one.tags.get("manifest") != tag]
    if others:
        return judged(text, [f"other data in {', '.join(others)}"], "")
    line = _agree(text, {"tag": tag[: len(digest)] if digest else tag, "data set": digest})
    if line.verdict != "holds":
        return line
    whole = len(digest) == len(tag) or bool(found.members)
    return Line(text, "holds", tag if whole else f"{tag} (its first {len(digest)} digits are recorded twice)")


@statement("images and labels are as many as the data set's")
def _labels(text: str, found: Evidence) -> Line:
    classes = {str(name): int(count) for name, count in (found.dataset.get("classes") or {}).items()}
    if not classes:
        return unknown(text, "the run logged no class counts")
    total, faults = sum(classes.values()), []
    stated = found.dataset.get("images")
    faults += [f"{stated} images stated, {total} counted by class"] * (stated is not None and int(stated) != total)
    beyond = int((found.split["row"] >= total).sum() + (found.predictions["row"] >= total).sum())
    faults += [f"{beyond} rows are beyond its {total} images"] * (beyond > 0)
    unused = sum(int(found.tags.get(f"leak.{name}", 0)) for name in ("unused_rows", "dropped_rows"))
    for fold, part in found.split.groupby("fold"):
        absent = total - part["row"].nunique() - unused
        faults += [f"fold {fold} gives no role to {absent} images"] * (absent != 0)
    counts = found.predictions["label"].astype(str).value_counts().to_dict()
    whole = len(found.predictions) == total
    faults += [
        f"{name}: {counts.get(name, 0)} of {classes.get(name, 0)}"
        for name in sorted({*classes, *counts})
        if counts.get(name, 0) > classes.get(name, 0) or (whole and counts.get(name, 0) != classes.get(name, 0))
    ]
    return judged(text, faults, "equal to the manifest's" if whole else "no count is above the manifest's")


@statement("the code is a commit")
def _code(text: str, found: Evidence) -> Line:
    commit = found.tags.get("git_commit")
    if {commit, found.environment.get("git_commit")} <= set(_UNKNOWN):
        return unknown(text, "the run was made outside of git")
    said = {"tag": commit, "environment.json": found.environment.get("git_commit")}
    same = _agree(text, said | {"MLflow's tag": found.tags.get("mlflow.source.git.commit")})
    dirty = {"tag": found.tags.get("git_dirty"), "environment.json": found.environment.get("git_dirty")}
    clean = _agree("whether files differed", dirty)
    faults = [line.detail for line in (same, clean) if line.verdict == "fails"]
    commit = str(commit)
    if not faults and not (len(commit) == 40 and set(commit) <= set("0123456789abcdef")):
        faults.append(f"{commit} is not a commit's name")
    faults += [f"files differed from {commit[:12]} when it ran"] * ("true" in dirty.values())
    resumed = found.tags.get("resumed_with")
    faults += [f"the run went on with other code or packages ({resumed[:12]})"] if resumed else []
    moved = sorted({one.name for one in found.members if _other_code(commit, one)})
    faults += [f"other or changed code in {', '.join(moved)}"] * bool(moved)
    if faults or same.verdict == "not checkable":
        return judged(text, faults, "") if faults else same
    if clean.verdict != "holds" and dirty["tag"] != "false":
        return unknown(text, "the run did not state whether files differed")
    if not known_commit(commit):
        return unknown(text, f"{commit} is stated twice, but is not a commit of this clone")
    return Line(text, "holds", f"{commit}, a commit of this clone")


def _other_code(commit: str, member: Evidence) -> bool:
    """Whether a fold ran other code: with changed files, or at a commit whose program is another or not known."""
    theirs = member.tags.get("git_commit", commit)
    return member.tags.get("git_dirty") == "true" or (theirs != commit and changed_between(commit, theirs))


@statement("lock hash")
def _lock(text: str, found: Evidence) -> Line:
    tag, commit = found.tags.get("lock_sha256"), found.tags.get("git_commit", "")
    said: dict[str, object] = {"tag": tag, "environment.json": found.environment.get("lock_sha256")}
    if set(said.values()) <= set(_UNKNOWN):
        return unknown(text, "the run did not state it")
    if found.tags.get("git_dirty") == "false":
        said["the commit's requirements.lock"] = lock_of(commit)
    line = _agree(text, said)
    others = [one.name for one in found.members if one.tags.get("lock_sha256", tag) != tag]
    return judged(text, [f"another lock hash in {', '.join(others)}"], "") if others else line


def _agree(text: str, said: Mapping[str, object]) -> Line:
    """Return whether what stands in several places is the same; in one place alone it cannot be checked.

    The first place is where the run states it: if it stands elsewhere and not there, it was taken away.
    """
    there = {place: str(value) for place, value in said.items() if value not in _UNKNOWN}
    if not there:
        return unknown(text, "the run did not state it")
    first = next(iter(said))
    if len(set(there.values())) > 1 or first not in there:
        shown = there if first in there else {first: "absent", **there}
        return judged(text, [", ".join(f"{place} {value}" for place, value in shown.items())], "")
    if len(there) < 2:
        return unknown(text, "it is recorded in one place only")
    return Line(text, "holds", next(iter(there.values())))
