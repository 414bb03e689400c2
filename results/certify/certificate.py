"""Certificate of a run: its folds, scores and origin checked line by line against what its tables give.

It detects inconsistency. It does not detect forgery: whoever can write the records can make them agree.
"""

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from mlflow.exceptions import MlflowException

from datamodules.errors import InputError
from results.certify.checks import Line, member_lines, number_lines, origin_lines, recomputed, table_lines
from results.certify.run_artifacts import RunArtifacts, read_artifacts
from results.predictions import PROTOCOL, protocol_of
from results.reports.pages import render, run_url
from results.reports.tables import as_text, class_table, macro_classes, whole_table
from results.tracking import store

LIMITS = (
    "This detects what is inconsistent in the records of a run. It does not detect forgery: whoever can write all of "
    "the records can make them agree."
)
_SIGNS = {"holds": "✓", "fails": "✗", "not checkable": "?", "could not be checked": "!"}
_STATED = (
    *("manifest", "git_commit", "git_dirty", "lock_sha256", "seed", "recipe", "changed_options", "data", "data_notes"),
    *("protocol", "selected_on"),
)


@dataclass(frozen=True)
class Certificate:
    """The checks of a run, and what the run states of itself."""

    run_id: str
    name: str
    url: str
    lines: tuple[Line, ...]
    stated: dict[str, str]
    intervals: pd.DataFrame | None

    @property
    def failed(self) -> list[Line]:
        """The lines that fail."""
        return [line for line in self.lines if line.verdict == "fails"]

    @property
    def broken(self) -> list[Line]:
        """The lines whose check raised an error, which says nothing about the run."""
        return [line for line in self.lines if line.verdict == "could not be checked"]

    @property
    def holds(self) -> bool:
        """Whether no line fails and no check raised an error."""
        return not self.failed and not self.broken

    @property
    def verdict(self) -> str:
        """The verdict on the whole run, with the number of checks that hold and fail."""
        unchecked = sum(line.verdict == "not checkable" for line in self.lines)
        holding = len(self.lines) - len(self.failed) - len(self.broken) - unchecked
        head = "FAILS" if self.failed else "HOLDS" if self.holds else "COULD NOT BE CHECKED"
        more = f", {len(self.broken)} could not be checked" if self.broken else ""
        return f"{head}: {holding} statements hold, {len(self.failed)} fail, {unchecked} are not checkable{more}"


def certify(run_id: str, *, directory: str | Path = store.DIRECTORY) -> Certificate:
    """Check the records of a run.

    Raises:
        InputError: The run has no tables, or they cannot be read from the store.
    """
    try:
        run = read_artifacts(run_id, directory=directory)
    except (MlflowException, OSError) as error:
        msg = f"RUN: the records of run {run_id} cannot be read ({store.reason(error)}); check its tracking store"
        raise InputError(msg) from error
    scores = functools.cache(lambda: recomputed(run))
    lines = [*table_lines(run), *number_lines(run, scores), *origin_lines(run), *member_lines(run)]
    try:
        intervals = scores()[1]
    except Exception:  # one of the lines reports it
        intervals = None
    stated = {name: run.tags[name] for name in _STATED if name in run.tags}
    stated.setdefault("protocol", _protocol(run))
    url = run_url(run.experiment_id, run_id)
    return Certificate(run_id, run.name, url, tuple(lines), stated, intervals)


def _protocol(run: RunArtifacts) -> str:
    try:
        return protocol_of(run.predictions) if PROTOCOL in run.predictions else "not stated"
    except InputError:
        return "several"


def certificate_text(certificate: Certificate) -> str:
    """Return the certificate for a terminal."""
    details = "\n".join(f"{_SIGNS[line.verdict]} {line.statement}: {line.detail}" for line in certificate.lines)
    stated = "\n".join(f"{name}: {value}" for name, value in certificate.stated.items())
    scores = ""
    if certificate.intervals is not None:
        scores = f"\n\n{as_text(whole_table(certificate.intervals))}\n{macro_classes(certificate.intervals)}"
    head = f"{certificate.name} [{certificate.run_id[:8]}]  {certificate.verdict}"
    return f"{head}\n\n{details}\n\n{stated}{scores}\n\n{LIMITS}"


def certificate_json(certificate: Certificate) -> str:
    """Return the certificate as JSON: verdict, lines, what the run states, and its intervals."""
    intervals = certificate.intervals
    content = {
        "run_id": certificate.run_id,
        "name": certificate.name,
        "run": certificate.url,
        "holds": certificate.holds,
        "verdict": certificate.verdict,
        "lines": [asdict(line) for line in certificate.lines],
        "stated": certificate.stated,
        "macro_f1": "" if intervals is None else macro_classes(intervals),
        "intervals": [] if intervals is None else json.loads(intervals.to_json(orient="records")),
        "limits": LIMITS,
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def certificate_page(certificate: Certificate) -> str:
    """Return the certificate as a self-contained HTML page that can be printed."""
    intervals = certificate.intervals
    return render(
        "certificate.html",
        title=f"Certificate of {certificate.name}",
        certificate=certificate,
        signs=_SIGNS,
        tables=[] if intervals is None else [whole_table(intervals), class_table(intervals)],
        averaged=[] if intervals is None else [macro_classes(intervals)],
        limits=LIMITS,
    )
