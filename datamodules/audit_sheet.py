"""Draws what an audit found: one line of pictures for each finding, under a heading for each kind."""

from pathlib import Path

import cv2
import numpy as np

from datamodules.audit import SEVERITIES, Audit
from datamodules.cache import PixelCache
from datamodules.errors import InputError
from datamodules.manifest import Manifest
from datamodules.places import replacing

_TILE = 96
_TEXT = 14  # height of the line of text below a tile
_ACROSS = 8
_FINDINGS = 8  # of each kind
_INK, _PAPER, _FAINT = (20, 20, 20), 255, (225, 225, 225)


def write_sheet(manifest: Manifest, cache: PixelCache, found: Audit, path: Path) -> int:
    """Write the sheet as PNG or JPEG, by its ending; return how many findings it shows."""
    lines: list[np.ndarray] = []
    shown = 0
    for kind in SEVERITIES:
        groups = found.of(kind)
        if not groups:
            continue
        more = f", {_FINDINGS} shown" if len(groups) > _FINDINGS else ""
        lines.append(_heading(f"{kind} ({len(groups)}{more})"))
        if len(groups[0]) == 1:  # findings of single pictures share a line
            drawn = [row for (row,) in groups[:_FINDINGS]]
            lines.append(_line(manifest, cache, drawn))
        else:
            lines += [_line(manifest, cache, rows[:_ACROSS]) for rows in groups[:_FINDINGS]]
        shown += min(len(groups), _FINDINGS)
    sheet = np.concatenate(lines) if lines else _heading("nothing found")
    ending = path.suffix.lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        msg = f"sheet must be a .png or .jpg file, got {path.name!r}"
        raise InputError(msg)
    data = cv2.imencode(ending, sheet[..., ::-1])[1]
    try:
        with replacing(path) as draft:
            draft.write_bytes(data.tobytes())
    except OSError as error:
        msg = f"sheet {path} cannot be written: {error.strerror or error}; choose a folder that you may write to"
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
