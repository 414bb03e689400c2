"""Find broken, duplicate and doubtful images for `emotion data check`, and write a cleaned manifest."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from datamodules.cache import PixelCache, build_cache
from datamodules.duplicates import join, near_duplicates, spread
from datamodules.errors import InputError, invalid
from datamodules.files.image_files import ENDINGS
from datamodules.files.paths import replacing
from datamodules.manifest import FACE_SOURCE, Manifest

TINY = 24  # pixels of the shorter side
_CONSTANT = 1.0  # standard deviation of grey levels below which an image shows nothing
_CHECK_SIZE = 64  # pixels kept of each image; more than the comparison needs, enough to look at

SEVERITIES = {
    "unreadable": "error",
    "two labels": "error",
    "across splits": "error",
    "person across splits": "error",
    "photograph across splits": "error",
    "wrong extension": "warning",
    "tiny": "warning",
    "16 bits, few used": "warning",
    "decoded smaller": "warning",
    "constant": "warning",
    "exact duplicates": "warning",
    "near duplicates": "warning",
    "two labels, near": "warning",
}


@dataclass(frozen=True)
class Audit:
    """Findings of an audit.

    Attributes:
        findings: One row a finding: ``kind``, ``severity`` (error or warning), ``rows`` (list of manifest rows),
            ``message``. Groups of duplicates are one finding each.
        exact: Group of each row, int64 (N,); rows of equal pixels are in one group.
        near_duplicate_groups: The same, with near-duplicates in one group.
    """

    findings: pd.DataFrame
    exact: np.ndarray
    near_duplicate_groups: np.ndarray

    @property
    def errors(self) -> int:
        """Number of findings that are errors."""
        return int((self.findings["severity"] == "error").sum())

    def of(self, kind: str) -> list[list[int]]:
        """Return the rows of each finding of a kind."""
        return self.findings.loc[self.findings["kind"] == kind, "rows"].tolist()


def audit(manifest: Manifest, cache: PixelCache, *, near: bool = True) -> Audit:
    """Check a data set whose images are in a cache.

    Args:
        manifest: The data set.
        cache: Its cache, of any size.
        near: Whether to look for near-duplicates, too.
    """
    content = cache.index["content"].to_numpy(object)
    alone = np.char.add("row ", np.arange(len(content)).astype(str))  # an unreadable image equals no other
    exact = pd.factorize(np.where(content == "", alone, content))[0].astype(np.int64)
    first = np.unique(exact, return_index=True)[1]
    pairs = [np.stack([np.arange(len(exact)), first[exact]], 1)]
    if near:
        pairs.append(near_duplicates(cache)[["a", "b"]].to_numpy(np.int64))
    near_duplicate_groups = join(len(manifest), np.concatenate(pairs))
    findings = [*_single(manifest, cache), *_groups(manifest, exact, near_duplicate_groups)]
    findings = pd.DataFrame(findings, columns=["kind", "rows", "message"])
    findings.insert(1, "severity", findings["kind"].map(SEVERITIES))
    return Audit(findings, exact, near_duplicate_groups)


Finding = tuple[str, list[int], str]


def _single(manifest: Manifest, cache: PixelCache) -> Iterator[Finding]:
    """Yield the findings of single images."""
    index = cache.index
    tones = spread(cache.greys)
    names = ("error", "format", "width", "height", "bits", "reduced")
    columns = zip(manifest.table["path"], *(index[name] for name in names), strict=True)
    for row, (path, error, detected, width, height, bits, reduced) in enumerate(columns):
        if error:
            yield "unreadable", [row], error
            continue
        suffix = Path(path).suffix.lower()
        if suffix and suffix not in ENDINGS.get(detected, (suffix,)):
            yield "wrong extension", [row], f"{path} holds {detected}"
        if min(width, height) < TINY:
            yield "tiny", [row], f"{path} is {width} x {height} pixels"
        if tones[row] < _CONSTANT:
            yield "constant", [row], f"{path} shows one tone only"
        if 8 < bits < 16:
            yield "16 bits, few used", [row], f"{path} uses {bits} of 16 bits; the upper 8 of these {bits} are kept"
        if reduced > 1:
            yield "decoded smaller", [row], f"{path} is {width} x {height} pixels, decoded at 1/{reduced} of its size"


def _groups(manifest: Manifest, exact: np.ndarray, near: np.ndarray) -> Iterator[Finding]:
    """Yield the findings of several images: duplicates, and duplicates or people in two parts."""
    label = manifest.table["label"].to_numpy(object)
    split = manifest.table["split"].to_numpy(object) if "split" in manifest.table else None

    def names(rows: list[int]) -> str:
        shown = ", ".join(manifest.table["path"].iloc[rows[:4]])
        return shown + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")

    for rows in _several(exact):
        yield "exact duplicates", rows, names(rows)
        if len(labels := sorted(set(label[rows]))) > 1:
            yield "two labels", rows, f"{' / '.join(labels)}: {names(rows)}"
    for rows in _several(near):
        if len(set(exact[rows])) > 1:
            yield "near duplicates", rows, names(rows)
            if len(labels := sorted(set(label[rows]))) > 1:
                yield "two labels, near", rows, f"{' / '.join(labels)}: {names(rows)}"
        if split is not None and len(parts := sorted(set(split[rows]))) > 1:
            yield "across splits", rows, f"{' / '.join(parts)}: {names(rows)}"
    for what, column in (("person", "subject"), ("photograph", FACE_SOURCE)):
        if split is None or column not in manifest.table:
            continue
        named = manifest.table[column].to_numpy(object)
        codes = pd.factorize(pd.Series(named).replace("", None))[0]
        known = np.flatnonzero(codes >= 0)
        for rows in _several(codes[known]):
            same = known[rows].tolist()
            if len(parts := sorted(set(split[same]))) > 1:
                yield f"{what} across splits", same, f"{named[same[0]]} in {' / '.join(parts)}"


def _several(groups: np.ndarray) -> Iterator[list[int]]:
    """Yield the rows of each group that has more than one, in order."""
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if len(rows) > 1:
            yield rows.tolist()


def summary(manifest: Manifest, report: Audit) -> pd.DataFrame:
    """Return one row for each kind of finding.

    Columns: finding, severity ("none" without findings), groups (number of findings; a group of duplicates is one),
    images, and "duplicate in another split" (how many of these images have one).
    """
    crossing = {row for rows in report.of("across splits") for row in rows}
    lines = []
    for kind, severity in SEVERITIES.items():
        groups = report.of(kind)
        rows = {row for group in groups for row in group}
        across = "-"
        if "split" in manifest.table and kind in ("exact duplicates", "near duplicates"):
            split = manifest.table["split"].to_numpy(object)
            numbers = report.exact if kind == "exact duplicates" else report.near_duplicate_groups
            parts = pd.Series(split).groupby(numbers).nunique()
            across = f"{sum(parts[numbers[row]] > 1 for row in rows & crossing):,}"
        lines.append((kind, severity if groups else "none", len(groups), len(rows), across))
    return pd.DataFrame(lines, columns=["finding", "severity", "groups", "images", "duplicate in another split"])


def run_check(
    manifest: Manifest,
    *,
    near: bool = True,
    fix: Path | None = None,
    sheet: Path | None = None,
    table: Path | None = None,
) -> int:
    """Print the findings of a data set; return 1 if there are errors, else 0.

    Args:
        manifest: The data set.
        near: Whether to look for near-duplicates, too.
        fix: File for a cleaned manifest (.csv or .parquet); no image is deleted.
        sheet: File for a contact sheet of the findings.
        table: File for all findings, one row per image (.csv).
    """
    if fix is not None and fix.suffix not in (".csv", ".parquet"):
        raise invalid("--fix", "must end in .csv or .parquet", str(fix))
    if table is not None and table.suffix != ".csv":
        raise invalid("--table", "must end in .csv", str(table))
    cache = build_cache(manifest, _CHECK_SIZE)
    report = audit(manifest, cache, near=near)
    print(f"{manifest.name}: {len(manifest):,} images, {len(manifest.classes)} classes")
    for note in manifest.notes:
        print(f"note: {note}")
    print(summary(manifest, report).to_string(index=False))
    for kind, severity in SEVERITIES.items():
        findings = report.findings[report.findings["kind"] == kind]
        if len(findings) and severity == "error":
            print(f"\n{kind}:")
            for message in findings["message"].head(5):
                print(textwrap.shorten(f"  {message}", 500, initial_indent="  "))
            if len(findings) > 5:
                print(f"  ... and {len(findings) - 5:,} more; --table FILE.csv lists all")
    if table is not None:
        write_table(manifest, report, table)
        print(f"\ntable    {table}")
    if sheet is not None:
        print(f"\nsheet    {sheet}: {write_sheet(manifest, cache, report, sheet)} findings drawn")
    if fix is not None:
        kept, reasons = clean(manifest, report)
        manifest.select(kept).save(fix)
        print(f"\ncleaned  {fix}: {len(kept):,} of {len(manifest):,} images; none was deleted")
        for reason, count in reasons.items():
            print(f"         left out {count:,}: {reason}")
        if len(kept) == len(manifest):
            print("         nothing had to be left out: splits that are made here keep duplicates in one part")
        if manifest.where_note:
            print(manifest.where_note)
    elif report.errors:
        print("\nerrors found; --fix FILE.csv writes a cleaned manifest, and deletes no image")
    else:
        print("\nno errors found; splits that are made here keep duplicates and near-duplicates in one part")
    if len(report.findings) and sheet is None and table is None:
        print("look at the findings with --sheet FILE.png; --table FILE.csv lists their files")
    return 1 if report.errors else 0


def write_table(manifest: Manifest, report: Audit, path: Path) -> None:
    """Write one row for each image of each finding."""
    columns = [name for name in ("path", "label", "split", "subject") if name in manifest.table]
    lines = report.findings.rename_axis("finding").reset_index().explode("rows", ignore_index=True)
    lines = lines.rename(columns={"rows": "row"})
    known = manifest.table[columns].iloc[lines["row"].to_numpy(np.int64)].reset_index(drop=True)
    table = pd.concat([lines[["finding", "kind", "severity", "row"]], known, lines["message"]], axis=1)
    try:
        with replacing(path) as draft:
            table.to_csv(draft, index=False)
    except OSError as error:
        msg = f"--table: {path} cannot be written: {error.strerror or error}; choose a folder that you may write to"
        raise InputError(msg) from error


_TILE = 96
_TEXT = 14  # height of the line of text below a tile
_ACROSS = 8
_FINDINGS = 8  # of each kind
_INK, _PAPER, _FAINT = (20, 20, 20), 255, (225, 225, 225)


def write_sheet(manifest: Manifest, cache: PixelCache, report: Audit, path: Path) -> int:
    """Write the sheet as PNG or JPEG, by its suffix; return the number of findings on it."""
    lines: list[np.ndarray] = []
    shown = 0
    for kind in SEVERITIES:
        groups = report.of(kind)
        if not groups:
            continue
        more = f", {_FINDINGS} shown" if len(groups) > _FINDINGS else ""
        lines.append(_heading(f"{kind} ({len(groups)}{more})"))
        if len(groups[0]) == 1:  # findings of single images share a line
            drawn = [row for (row,) in groups[:_FINDINGS]]
            lines.append(_line(manifest, cache, drawn))
        else:
            lines += [_line(manifest, cache, rows[:_ACROSS]) for rows in groups[:_FINDINGS]]
        shown += min(len(groups), _FINDINGS)
    sheet = np.concatenate(lines) if lines else _heading("nothing found")
    ending = path.suffix.lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        msg = f"--sheet: must be a .png or .jpg file, got {path.name!r}"
        raise InputError(msg)
    data = cv2.imencode(ending, sheet[..., ::-1])[1]
    try:
        with replacing(path) as draft:
            draft.write_bytes(data.tobytes())
    except OSError as error:
        msg = f"--sheet: {path} cannot be written: {error.strerror or error}; choose a folder that you may write to"
        raise InputError(msg) from error
    return shown


def _heading(text: str) -> np.ndarray:
    strip = np.full((28, _ACROSS * _TILE, 3), _PAPER, np.uint8)
    cv2.putText(strip, text, (4, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
    return strip


def _line(manifest: Manifest, cache: PixelCache, rows: list[int]) -> np.ndarray:
    strip = np.full((_TILE + _TEXT, _ACROSS * _TILE, 3), _PAPER, np.uint8)
    for place, row in enumerate(rows):
        x = place * _TILE
        if cache.index["error"].iat[row]:
            strip[: _TILE - 2, x : x + _TILE - 2] = _FAINT
            cv2.putText(strip, "unreadable", (x + 8, 50), cv2.FONT_HERSHEY_SIMPLEX, 0.4, _INK, 1, cv2.LINE_AA)
        else:
            picture = cache.read([row])[0]
            strip[: _TILE - 2, x : x + _TILE - 2] = cv2.resize(picture, (_TILE - 2, _TILE - 2))
        split = f" {manifest.table['split'].iat[row][:5]}" if "split" in manifest.table else ""
        text = f"{row} {manifest.table['label'].iat[row]}{split}"[:18]
        cv2.putText(strip, text, (x + 1, _TILE + 9), cv2.FONT_HERSHEY_SIMPLEX, 0.30, _INK, 1, cv2.LINE_AA)
    return strip


def clean(manifest: Manifest, report: Audit) -> tuple[np.ndarray, dict[str, int]]:
    """Return the rows to keep, int64 sorted, and the number of rows that were left out for each reason.

    Of equal images one is kept, with the label of the majority (none is kept if labels tie), and of those with this
    label rather one in test or validation than in training: a test image with another label is left out.
    Near-duplicates, the images of a person and the faces of a photograph are kept, since folds keep them together,
    unless they are in two given splits: then they are removed from training, or from validation if one is in test.
    """
    count = len(manifest)
    reason = np.full(count, "", object)
    for kind in ("unreadable", "constant"):
        for rows in report.of(kind):
            reason[rows] = kind
    label = manifest.table["label"].to_numpy(object)
    rank = np.zeros(count, np.int64)
    if "split" in manifest.table:
        rank = manifest.table["split"].map({"test": 0, "validation": 1}).fillna(2).to_numpy(np.int64)
    for rows in report.of("exact duplicates"):
        open_rows = [row for row in rows if not reason[row]]
        if not open_rows:
            continue
        votes = pd.Series(label[open_rows]).value_counts()
        if len(votes) > 1 and votes.iloc[0] == votes.iloc[1]:
            reason[open_rows] = "one image under two labels, none in the majority"
            continue
        # of the rows with the winning label, the one that is nearest to the reported part
        winners = [row for row in open_rows if label[row] == votes.index[0]]
        keep = min(winners, key=lambda row: (rank[row], row))
        for row in open_rows:
            if row != keep:
                reason[row] = (
                    "exact duplicate" if label[row] == votes.index[0] else "copy with a label that fewer copies have"
                )
    if "split" in manifest.table:
        for rows in report.of("across splits"):
            _leave(rows, reason, rank, "duplicate in another split")
        for what in ("person", "photograph"):
            for rows in report.of(f"{what} across splits"):
                _leave(rows, reason, rank, f"{what} in another split")
    kept = np.flatnonzero(reason == "")
    missing = sorted(set(manifest.table["label"]) - set(label[kept]))
    if missing:
        msg = f"fix would leave no image of class {', '.join(missing)}; correct the labels first (--table lists them)"
        raise InputError(msg)
    why, times = np.unique(reason[reason != ""].astype(str), return_counts=True)
    return kept, dict(zip(why.tolist(), times.tolist(), strict=True))


def _leave(rows: list[int], reason: np.ndarray, rank: np.ndarray, why: str) -> None:
    """Leave out those of ``rows`` that are not in the part that is reported; changes ``reason``."""
    left = [row for row in rows if not reason[row]]
    best = min((rank[row] for row in left), default=0)
    for row in left:
        if rank[row] > best:
            reason[row] = why
