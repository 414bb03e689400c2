"""Read tables: CSV and TSV in any common encoding and with any common separator, JSON lines, and Parquet."""

import codecs
import csv
import json
import warnings
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import InputError
from datamodules.files.image_files import IMAGE_SUFFIXES

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods")
PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "image name"),
    *("image_name", "img_path", "image_file", "pth"),
)
"""Usual names of the column of files, the most specific first; case is ignored."""

_SEPARATORS = (",", ";", "\t")
_HEAD = 1 << 16
_ROWS = 20  # rows that a separator must divide like the header
_SIGNATURES = (
    (b"PK\x03\x04", "is an Excel workbook or an archive; save it as CSV (in Excel: Save As, CSV UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook; save it as CSV (in Excel: Save As, CSV UTF-8)"),
    (b"version https://git-lfs", "is a placeholder of Git LFS; fetch the file itself with `git lfs pull`"),
)


def read_table(path: Path, *, columns_only: bool = False) -> pd.DataFrame:
    """Read a table of CSV, TSV, JSON lines or Parquet.

    The encoding (UTF-8 with or without a byte-order mark, UTF-16, CP949) and the separator (comma, semicolon, tab) of
    a text file are recognised. Its cells are text as written: ``NA``, ``None``, ``null`` and ``nan`` are words. Only an
    empty cell is a missing value and is read as ``""``; in Parquet and JSON only a null is.

    Args:
        path: the file.
        columns_only: read the header and no rows.

    Raises:
        InputError: the file is missing or cannot be read as a table.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        for signature, what in _SIGNATURES:
            if head.startswith(signature):
                msg = f"{path} {what}"
                raise InputError(msg)
        if not head.strip():
            msg = "the file is empty"
            raise ValueError(msg)
        if path.suffix.lower() == ".parquet":
            schema = pq.read_schema(path)
            return pd.DataFrame(columns=schema.names) if columns_only else _parquet(path)
        if path.suffix.lower() == ".jsonl":
            return _json_lines(path, columns_only=columns_only)
        return _text(path, head, columns_only=columns_only)
    except (ValueError, OSError, pa.ArrowException) as error:  # pandas' parser errors are ValueErrors
        if isinstance(error, InputError):
            raise
        why = str(error) or type(error).__name__
        msg = f"cannot read the table {path}: {why}; it must be CSV, TSV, JSON lines or Parquet with a header"
        raise InputError(msg) from error


def _parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file; whole numbers beside nulls stay whole numbers."""
    table = pd.read_parquet(path)
    for column in table.columns[table.dtypes == "float64"]:
        values = table[column].dropna()
        if len(values) < len(table) and len(values) and (values == values.round()).all():
            table[column] = table[column].astype("Int64")
    return table


def _json_lines(path: Path, *, columns_only: bool) -> pd.DataFrame:
    """Read one JSON object per line; values that are lists or objects stay JSON."""
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            record = json.loads(line)
            if not isinstance(record, dict):
                msg = f'{path}: line {number} must be an object such as {{"file_name": ...}}, got {line.strip()[:60]}'
                raise InputError(msg)
            rows.append(record)
            if columns_only:
                break
    text = [
        {name: None if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
         for name, value in row.items()}
        for row in rows
    ]  # fmt: skip
    table = pd.DataFrame(text, dtype=object)
    return table.iloc[:0] if columns_only else table


def _text(path: Path, head: bytes, *, columns_only: bool) -> pd.DataFrame:
    encoding = _encoding(head)
    for chosen in dict.fromkeys((encoding, "cp949")):  # the first character that is not ASCII may come late
        try:
            text = head.decode(chosen, errors="ignore")
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # rows with more cells than the header
                return pd.read_csv(
                    path,
                    dtype=str,
                    sep=_separator(text, path),
                    encoding=chosen,
                    nrows=0 if columns_only else None,
                    na_filter=False,
                    index_col=False,
                )
        except UnicodeDecodeError:
            continue
        except pd.errors.ParserWarning as error:
            msg = f"{path} has rows with more cells than its header; put quotes around cells that contain a separator"
            raise InputError(msg) from error
    msg = f"{path} is neither UTF-8, UTF-16 nor CP949 (Korean Windows) text; save it as CSV UTF-8"
    raise InputError(msg)


def _encoding(head: bytes) -> str:
    """Return the encoding of a text by its first bytes."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = head[::2].count(0), head[1::2].count(0)
    if even + odd:  # UTF-16 without its mark: one of the two bytes of an ASCII character is zero
        return "utf-16-le" if odd > even else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut off at the end
    except UnicodeDecodeError:
        return "cp949"
    return "utf-8-sig"


def _separator(text: str, path: Path) -> str:
    """Return the separator that divides the header and the first rows into the same number of cells."""
    lines = text.splitlines()[: _ROWS + 1]
    if len(text) >= _HEAD // 2 and len(lines) > 1:
        lines = lines[:-1]  # it may be cut off
    best = ("\t" if path.suffix.lower() == ".tsv" else ",", 1)
    if not lines:
        return best[0]
    for separator in _SEPARATORS:
        try:
            cells = [len(row) for row in csv.reader(lines, delimiter=separator) if row]
        except csv.Error:
            continue
        if cells and cells[0] > best[1] and all(number <= cells[0] for number in cells):
            best = separator, cells[0]
    return best[0]


def has_no_header(table: pd.DataFrame, folder: Path) -> bool:
    """Return whether the column names are a row of data: one of them is an existing file, or ends like an image."""
    names = [str(name).strip() for name in table.columns]
    return any(name.lower().endswith(tuple(IMAGE_SUFFIXES)) or (name and (folder / name).is_file()) for name in names)


def embedded_image_column(path: Path) -> str | None:
    """Return the first column of a Parquet file that holds images (bytes, or bytes and a path), or None."""
    if path.suffix.lower() != ".parquet":
        return None
    try:
        schema = pq.read_schema(path)
    except (ValueError, OSError, pa.ArrowException):
        return None
    return next((field.name for field in schema if holds_images(field)), None)


def holds_images(field: pa.Field) -> bool:
    """Return whether a column holds the bytes of image files."""
    kind = field.type
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(number).name for number in range(kind.num_fields)}
    named = field.name.lower() in "image img jpg jpeg png webp picture photo bytes image_bytes".split()
    return named and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
