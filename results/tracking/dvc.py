"""Share runs through DVC: `mlruns.dvc` names an export in a remote; push adds runs to it, pull imports them."""

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from datamodules.errors import InputError
from results.tracking import runs, store
from results.tracking.export_import import MODELS, export_runs, exported_runs, import_runs

TRACKED = "mlruns.dvc"
EXPORT = "mlruns/exchange"  # exists only during a push or pull: DVC fails on a tracked folder that is in use
LIMIT_MB = 8  # of an export whose remote is in the repository, since git keeps it for ever
_GIVEN = "given"  # name of a remote that is given by its address


def push(
    remote: str | None = None,
    chosen: Sequence[str] = (),
    *,
    skip: Sequence[str] = MODELS,
    replace: bool = False,
    directory: str | Path = store.DIRECTORY,
) -> tuple[dict[str, str], str]:
    """Add runs to what `mlruns.dvc` names, send it to a remote, and rewrite `mlruns.dvc`.

    Notes:
        * The runs that others pushed are imported first, so that none is lost; with `replace` only `chosen` is shared.
        * `mlruns.dvc` changes only after everything was uploaded.

    Args:
        remote: Name of a DVC remote, or its address; by default the default remote.
        chosen: Run ids; the runs below them are included. Empty: all runs.
        skip: Patterns of artifacts to leave out.
        replace: Share only `chosen`.
        directory: Folder of the runs.

    Returns:
        The outcome of each run, and a sentence about the export.

    Raises:
        InputError: DVC is not installed, there is no such remote, there is nothing to share, or too much for a remote
            in the repository.
    """
    with _exchange() as root:
        name = _remote(root, remote)
        export, tracked = root / EXPORT, root / TRACKED
        shared = [] if replace else _fetch(root, [None] if name is None else [None, name])
        if shared:
            import_runs(export, directory=directory)
        known = set(runs.find_runs(directory=directory, limit=runs.ALL)["run_id"])
        if chosen:
            chosen = [*chosen, *(run_id for run_id in shared if run_id in known)]
        outcome = export_runs(export, chosen, skip=skip, directory=directory)
        count, size = _measure(export)
        inside = _inside(root, name)
        if inside is not None and size > LIMIT_MB:
            msg = (
                f"remote: {size:.1f} MB of runs are too much for a remote inside the repository (at most {LIMIT_MB} "
                "MB); leave out artifacts (--skip 'figures/*'), share fewer runs (--run RUN --replace), or name "
                "another remote with --remote"
            )
            raise InputError(msg)
        before = tracked.read_text() if tracked.exists() else None
        try:
            tracked.write_text(yaml.safe_dump({"outs": [{"path": EXPORT, "hash": "md5"}]}))
            _dvc(root, "commit", "--force", "--no-relink", TRACKED)
            _dvc(root, "push", *_named(name), TRACKED)
        except BaseException:
            if before is None:
                tracked.unlink(missing_ok=True)
            else:
                tracked.write_text(before)
            raise
        if inside is not None:
            _prune(root, inside)
        where = "the default remote" if name is None else f"the remote {name!r}"
        return outcome, f"{TRACKED} names {count} runs ({size:.1f} MB) in {where}."


def pull(remote: str | None = None, *, directory: str | Path = store.DIRECTORY) -> dict[str, str]:
    """Fetch the export that `mlruns.dvc` names and import its runs; return the outcome of each run.

    Raises:
        InputError: DVC is not installed, there is no such remote, nothing was shared, or the remote does not have it.
    """
    with _exchange() as root:
        if not _fetch(root, [_remote(root, remote)]):
            msg = f"{TRACKED}: it names no runs yet; share some with `make runs-push`"
            raise InputError(msg)
        return import_runs(root / EXPORT, directory=directory)


@contextlib.contextmanager
def _exchange() -> Iterator[Path]:
    """Yield the root of the DVC repository to one push or pull at a time, and delete the export afterwards."""
    current = Path.cwd()
    root = next((folder for folder in (current, *current.parents) if (folder / ".dvc").is_dir()), None)
    if root is None:
        msg = f"mlruns.dvc: runs are shared from a repository with a folder .dvc, {current} is in none; go to the clone"
        raise InputError(msg)
    if importlib.util.find_spec("dvc") is None:
        msg = "dvc: it is not installed; install the extra with `pip install 'emotion-pipeline[dvc]'` (or dvc>=3.60)"
        raise InputError(msg)
    export = root / EXPORT
    export.parent.mkdir(exist_ok=True)
    try:
        with FileLock(export.parent / ".exchange.lock", timeout=0):
            shutil.rmtree(export, ignore_errors=True)
            try:
                yield root
            finally:
                shutil.rmtree(export, ignore_errors=True)
    except Timeout as error:
        msg = f"mlruns.dvc: another push or pull is running in {root}; wait until it ends"
        raise InputError(msg) from error


def _fetch(root: Path, names: Sequence[str | None]) -> list[str]:
    """Fetch what `mlruns.dvc` names into the export folder, from the first remote that has it; return its run ids."""
    tracked = root / TRACKED
    text = tracked.read_text() if tracked.exists() else ""
    if "<<<<<<<" in text:
        msg = (
            f"{TRACKED}: git left two versions in it; take theirs (git checkout --theirs {TRACKED}; in a rebase "
            "--ours), then `make runs-push` adds the runs of this clone"
        )
        raise InputError(msg)
    if "md5: " not in text.replace("hash: md5", ""):
        return []
    for name in names:
        try:
            _dvc(root, "pull", "--force", *_named(name), TRACKED)
            break
        except InputError:
            if name == names[-1]:
                raise
            print(f"Trying the remote {names[-1]!r} ...", file=sys.stderr)
    return [folder.name for folder in exported_runs(root / EXPORT)]


def _remote(root: Path, remote: str | None) -> str | None:
    """Return the name of a remote; an address gets a name in the local settings of DVC, which git does not track."""
    if remote is None:
        return None
    known = _remotes(root)
    if remote in known:
        return remote
    if "/" not in remote:
        names = ", ".join(filter(None, known)) or "none"
        msg = f"remote: {remote!r} is not a DVC remote here (known: {names}); add it: dvc remote add {remote} ADDRESS"
        raise InputError(msg)
    address = remote if "://" in remote else str(Path(remote).absolute())
    _dvc(root, "remote", "add", "--local", "--force", _GIVEN, address)
    return _GIVEN


def _remotes(root: Path) -> dict[str, str]:
    """Return the address of each remote; the default remote also has the name ""."""
    settings = dict(line.partition("=")[::2] for line in _dvc(root, "config", "--list").splitlines())
    pairs = ((re.fullmatch(r"remote\.(.+)\.url", key), value) for key, value in settings.items())
    addresses = {match[1]: value for match, value in pairs if match}
    default = settings.get("core.remote", "")
    return addresses | ({"": addresses[default]} if default in addresses else {})


def _inside(root: Path, name: str | None) -> Path | None:
    """Return the folder of a remote in the repository, None for any other remote."""
    address = _remotes(root).get(name or "", "")
    place = store.local_path(address) if address else None
    return place if place is not None and place.resolve().is_relative_to(root.resolve()) else None


def _measure(export: Path) -> tuple[int, float]:
    count = len(exported_runs(export))
    if not count:
        msg = "run: there is no run to share, none has ended; train first, or go to the folder of mlruns"
        raise InputError(msg)
    return count, sum(path.stat().st_size for path in export.rglob("*") if path.is_file()) / 1e6


def _prune(root: Path, place: Path) -> None:
    """Delete from a remote in the repository what `mlruns.dvc` no longer names; git has it for older commits."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.dvc", "*dvc.yaml"]
    done = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode or set(done.stdout.split()) != {TRACKED}:  # the remote may contain other data
        return
    objects = place / "files" / "md5"
    listing = yaml.safe_load((root / TRACKED).read_text())["outs"][0]["md5"]
    entries = json.loads((objects / listing[:2] / listing[2:]).read_text())
    named = {listing, *(entry["md5"] for entry in entries)}
    for path in objects.glob("??/*"):
        if path.parent.name + path.name not in named:
            path.unlink()
            with contextlib.suppress(OSError):  # it contains other files
                path.parent.rmdir()


def _named(name: str | None) -> list[str]:
    return [] if name is None else ["--remote", name]


def _dvc(root: Path, *arguments: str) -> str:
    """Run DVC and return what it printed; its progress and errors go to the terminal."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        msg = f"dvc: `dvc {' '.join(arguments)}` failed, for the reason that it printed above; correct it and try again"
        raise InputError(msg)
    return done.stdout
