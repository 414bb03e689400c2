"""Reader of shards that hold the images themselves: Parquet files of Hugging Face, and tar files of WebDataset.

The images are written out once under the cache, since everything else works on files; a shard is read piece by piece.
"""

import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.files.image_files import ENDINGS, HEAD, IMAGE_SUFFIXES, image_format
from datamodules.files.paths import build_once, cache_root, is_folder
from datamodules.files.tables import embedded_image_column, holds_images
from datamodules.labels import canonical, canonical_split, plain
from datamodules.manifest import Manifest
from datamodules.readers.archives import Room, members, unpacked_folder
from datamodules.readers.base import ReadOptions, finish, resolve
from datamodules.readers.table import COLUMN_NAMES, apply_votes, name_columns, part_of

TARS = (".tar", ".tar.gz", ".tgz")
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)(?=\.|$)")
_PART = "part of the shard"
_LABELS = "labels of the sample"  # column: sample and its labels by kind of file, as JSON, where it has several
_LABEL_FILES = ("cls", "json", "txt")  # the first that a sample has gives its label
_ROWS = 64  # of a Parquet file in memory at a time
_PEEK = 60  # members of a tar by which it is recognised
_MOST = 2000  # entries of a folder by which it is recognised
_TEXT = 1 << 20  # bytes of a label or of a record


def find_shards(path: Path) -> list[Path]:
    """Return the shards of a folder: in it, or in ``data/``, ``<configuration>/`` or ``<configuration>/<part>/``."""
    if path.is_file():
        return [path] if _is_shard(path) else []
    folders = [path] if path.is_dir() else []
    for _ in range(3):
        entries = [entry for folder in folders[:50] for entry in _entries(folder, _MOST)]
        if any(_is_shard(file) for file in _packed(entries)):  # then all of it is looked at
            return [file for folder in folders for file in _packed(_entries(folder)) if _is_shard(file)]
        folders = sorted(Path(entry.path) for entry in entries if is_folder(entry))
    return []


def _entries(folder: Path, most: int | None = None) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are not hidden, at most so many of them."""
    try:
        with os.scandir(folder) as listing:
            return [entry for entry in islice(listing, most) if not entry.name.startswith(".")]
    except OSError:
        return []


def _packed(entries: list[os.DirEntry[str]]) -> list[Path]:
    """Return the files that are shards by their names, sorted."""
    names = (entry for entry in entries if entry.name.lower().endswith((".parquet", *TARS)))
    return sorted(Path(entry.path) for entry in names if not is_folder(entry))


def _is_shard(file: Path) -> bool:
    if file.name.lower().endswith(TARS):
        return _is_webdataset(file)
    return embedded_image_column(file) is not None


def _is_webdataset(file: Path) -> bool:
    """Return whether the first files of a tar are images, each with a label of the same name beside it."""
    images: set[str] = set()
    labels: set[str] = set()
    with suppress(OSError, tarfile.TarError, EOFError), tarfile.open(file) as archive:
        for member, _ in zip(archive, range(_PEEK), strict=False):
            if not member.isreg():
                continue
            key, kind = _key(member.name)
            if f".{kind.rpartition('.')[2]}" in IMAGE_SUFFIXES:
                images.add(key)
            elif kind in _LABEL_FILES and member.size < _TEXT:
                content = archive.extractfile(member)
                if content is not None and _values(kind, content.read()).get("label"):
                    labels.add(key)
    return bool(images & labels)


def looks_like(path: Path) -> bool:
    """Return whether this is a shard of images, or a folder with shards."""
    return bool(find_shards(path))


def read(path: Path, options: ReadOptions, name: str) -> Manifest:
    """Read the images of all shards; parts of a given split are those in the shards' names or folders.

    Numbers are named by the classes that a Parquet file of Hugging Face states. Images without a label are left out.

    Raises:
        InputError: no shard, a shard that cannot be read, no column of labels, or a sample of WebDataset whose files
            give different labels.
    """
    shards = find_shards(path)
    if not shards:
        msg = f"no images in {path}: no Parquet file with a column of image bytes, and no tar file of WebDataset"
        raise InputError(msg)
    tables, notes = [], [*_incomplete(shards), *_others(shards, path)]
    for shard in shards:
        folder = unpack_shard(shard, options.path_column)
        table = _named(pd.read_parquet(folder / "rows.parquet"), shard)
        tables.append(table.assign(path=f"{folder.name}/" + table["path"], **{_PART: _part(shard, path)}))
        notes += json.loads((folder / "notes.json").read_text(encoding="utf-8"))
    table = pd.concat(tables, ignore_index=True).fillna("")
    if _LABELS in table:
        table, label_notes = _agreeing(table, options)
        notes += label_notes
    parts = table.pop(_PART)
    label = options.label_column or _label_column(table, shards)
    columns = replace(options, path_column="path", label_column=label)
    table = name_columns(table, columns, path)
    if "split" not in table and parts.all():
        table["split"] = parts
    if options.votes == "ignore" and (unlabelled := table["label"] == "").any():
        notes.append(f"{int(unlabelled.sum())} images left out: they have no label")
        table = table[~unlabelled].reset_index(drop=True)
    table, vote_notes = apply_votes(table, name, options)
    return finish(table, cache_root() / "unpacked", name, options, (*notes, *vote_notes))


def _agreeing(table: pd.DataFrame, options: ReadOptions) -> tuple[pd.DataFrame, list[str]]:
    """Return the samples whose files give one label, and a note on the others, which ``bad_records=drop`` leaves out.

    A number and a name are not compared, unless the options give the meaning of the number.

    Raises:
        InputError: samples of several labels, and ``bad_records`` is ``error``.
    """
    texts, bad = table.pop(_LABELS), {}
    if options.label_column not in (None, "label"):
        return table, []
    for row, text in texts[texts != ""].items():
        sample, labels = json.loads(text)
        names, numbers = set[str](), set[str]()
        for label in labels.values():
            meaning = resolve(label, options)
            (numbers if meaning is None and label.isdecimal() else names).add(meaning or plain(label))
        if len(names) > 1 or len(numbers) > 1:
            bad[row] = f"{sample!r} ({', '.join(f'.{kind} {label}' for kind, label in labels.items())})"
    if not bad:
        return table, []
    shown = ", ".join(list(bad.values())[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    if options.bad_records == "error":
        msg = (
            f"{len(bad)} samples have files that give different labels: {shown}; correct them, or leave such samples "
            "out with --bad-records drop"
        )
        raise InputError(msg)
    kept = table.drop(index=list(bad)).reset_index(drop=True)
    return kept, [f"{len(bad)} samples left out: their files give different labels: {shown}"]


def shard_images(path: Path) -> list[Path]:
    """Return the images of a shard or of a folder of shards, in the order of their rows; [] if there is none.

    Raises:
        InputError: a shard that cannot be read.
    """
    folders = [unpack_shard(shard) for shard in find_shards(path)]
    return [folder / row for folder in folders for row in pd.read_parquet(folder / "rows.parquet")["path"]]


def _part(shard: Path, path: Path) -> str:
    """Return the part in the name of a shard or of its folder; "" if neither names one."""
    inside = shard.relative_to(path).parent.name if path.is_dir() else ""
    return part_of(shard.stem) or canonical_split(inside) or ""


def _incomplete(shards: list[Path]) -> list[str]:
    """Return notes on shards that are missing, by names such as ``train-00000-of-00002``."""
    present: Counter[tuple[str, int]] = Counter()
    for shard in shards:
        if match := _NUMBERED.search(shard.name):
            present[shard.name[: match.start()], int(match[2])] += 1
    return [
        f"only {count} of {total} shards of {name} exist here"
        for (name, total), count in present.items()
        if count < total
    ]


def _others(shards: list[Path], path: Path) -> list[str]:
    """Return a note on files beside the shards of a folder that are called like shards and hold no labelled images."""
    places = dict.fromkeys(shard.parent for shard in shards) if path.is_dir() else ()
    known = set(shards)
    others = [file.name for place in places for file in _packed(_entries(place)) if file not in known]
    return [f"{len(others)} files left out: no labelled images are found in {others[0]}"] if others else []


def _label_column(table: pd.DataFrame, shards: list[Path]) -> str | None:
    """Return the only column of class labels where none has a usual name; None leaves the choice to `name_columns`."""
    if {c.lower() for c in table} & set(COLUMN_NAMES["label"]) or not shards[0].name.endswith(".parquet"):
        return None
    classes = list(_class_names(shards[0]))
    return classes[0] if len(classes) == 1 and classes[0] in table else None


def _named(table: pd.DataFrame, shard: Path) -> pd.DataFrame:
    """Return the table with names in place of the numbers of classes; -1 is no label."""
    if not shard.name.lower().endswith(".parquet"):
        return table
    for column, names in _class_names(shard).items():
        if column in table:
            meaning = {str(number): name for number, name in enumerate(names)} | {"-1": ""}
            table[column] = table[column].map(lambda value, meaning=meaning: meaning.get(value, value))
    return table


def _class_names(shard: Path) -> dict[str, list[str]]:
    """Return the names of classes by column, as Hugging Face states them in a Parquet file's metadata."""
    stated = (pq.read_schema(shard).metadata or {}).get(b"huggingface")
    features: dict[str, Any] = {}
    with suppress(ValueError, KeyError, TypeError):
        features = json.loads(stated or b"{}")["info"]["features"]
    by_column = {}
    for column, feature in features.items():
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names, key=int)]
        if isinstance(names, list):
            by_column[column] = [str(name) for name in names]
    return by_column


def unpack_shard(shard: Path, column: str | None = None) -> Path:
    """Write the images of a shard under the cache, once, and return the folder.

    It has ``images/``, ``rows.parquet`` (their paths, and all other columns as text) and ``notes.json``.

    Args:
        shard: a Parquet or tar file.
        column: the column of images, where a Parquet file has several; by default the first.

    Raises:
        InputError: the shard cannot be read, is larger than the limit, or has no such column.
    """
    base = unpacked_folder(shard)
    chosen = f"-{hashlib.sha256(column.encode()).hexdigest()[:8]}" if column else ""
    folder = base.with_name(f"{base.name}-images{chosen}")
    with build_once(folder) as (place, draft):
        if draft is not None:
            (draft / "images").mkdir()
            try:
                is_tar = shard.name.lower().endswith(TARS)
                rows, notes = _from_tar(shard, draft) if is_tar else _from_parquet(shard, draft, column)
            except (pa.ArrowException, tarfile.TarError, EOFError, ValueError) as error:
                if isinstance(error, InputError):
                    raise
                msg = f"cannot read {shard}: {str(error)[:300] or type(error).__name__}; download it again"
                raise InputError(msg) from error
            if rows.empty:
                msg = f"{shard} holds no images"
                raise InputError(msg)
            rows.to_parquet(draft / "rows.parquet")
            (draft / "notes.json").write_text(json.dumps(notes, ensure_ascii=False), encoding="utf-8")
    return place


def _from_parquet(shard: Path, draft: Path, column: str | None) -> tuple[pd.DataFrame, list[str]]:
    parquet = pq.ParquetFile(shard)
    schema = parquet.schema_arrow
    images = [field.name for field in schema if holds_images(field)]
    image = column or images[0]
    if image not in images:
        msg = f"--path-column: must be a column of images in {shard.name} ({', '.join(images)}), got {image!r}"
        raise InputError(msg)
    others = [field.name for field in schema if _is_text(field.type)]
    parts: list[pd.DataFrame] = []
    first, empty = 0, 0
    room = Room(shard, draft)
    with _progress(shard, parquet.metadata.num_rows) as bar:
        for batch in parquet.iter_batches(_ROWS, columns=[image, *others]):
            contents, names = _contents(batch.column(image))
            paths: list[str | None] = []
            for row, (data, name) in enumerate(zip(contents, names, strict=True), first):
                path = None
                if data:
                    room.take(len(data))
                    path = _image_name(row, name, data)
                    (draft / path).write_bytes(data)
                paths.append(path)
            first += len(paths)
            empty += paths.count(None)
            text = {f"{name}_column" if name == "path" else name: _text(batch.column(name)) for name in others}
            part = pd.DataFrame({**text, "path": paths}, dtype=object)
            parts.append(part[part["path"].notna()])
            bar.update(len(paths))
    notes = [f"{empty} rows of {shard.name} left out: they hold no image"] if empty else []
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["path"]), notes


def _progress(shard: Path, total: int | None = None) -> tqdm:
    return tqdm(desc=f"images of {shard.name}", total=total, unit=" images", delay=1, leave=False, disable=None)


def _is_text(kind: pa.DataType) -> bool:
    """Return whether values of a type can be written as text: no lists, bytes or structures."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(text or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _text(column: pa.Array) -> list[str]:
    if pa.types.is_floating(column.type) and pc.all(pc.equal(pc.round(column), column)).as_py():
        column = pc.cast(column, pa.int64(), safe=False)  # whole numbers beside nulls
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return ["" if value is None else value for value in pc.cast(column, pa.string()).to_pylist()]


def _contents(column: pa.Array) -> tuple[list[bytes | None], list[str | None]]:
    """Return the bytes and the names of images."""
    if not pa.types.is_struct(column.type):
        return column.to_pylist(), [None] * len(column)
    fields = {column.type.field(number).name for number in range(column.type.num_fields)}
    contents = pc.struct_field(column, "bytes").to_pylist()
    return contents, pc.struct_field(column, "path").to_pylist() if "path" in fields else [None] * len(contents)


def _image_name(row: int, name: str | None, data: bytes) -> str:
    """Return the path of an image in its folder: its row, what is harmless of its name, and the ending of its kind."""
    stem, ending = os.path.splitext((name or "").replace("\\", "/").rpartition("/")[2])
    kind = image_format(data[:HEAD])
    known = ENDINGS[kind][0] if kind else ending.lower()
    stem = re.sub(r"[^\w-]+", "_", stem)[:60].strip("_")
    return f"images/{row:07d}{f'_{stem}' if stem else ''}{known if known in IMAGE_SUFFIXES else '.img'}"


def _from_tar(shard: Path, draft: Path) -> tuple[pd.DataFrame, list[str]]:
    samples: dict[str, dict[str, str]] = {}
    labels: dict[str, dict[str, str]] = {}
    left_out: Counter[str] = Counter()
    written = 0
    with _progress(shard) as bar:
        for parts, content in members(shard, draft):
            key, kind = _key("/".join(parts))
            sample = samples.setdefault(key, {})
            ending = f".{kind.rpartition('.')[2]}"
            with content:
                if ending in IMAGE_SUFFIXES and "path" not in sample:
                    data = content.read()
                    sample["path"] = _image_name(written, f"{key}{ending}", data)
                    (draft / sample["path"]).write_bytes(data)
                    written += 1
                    bar.update()
                elif kind in _LABEL_FILES:
                    values = _values(kind, content.read(_TEXT))
                    if "label" in values:
                        labels.setdefault(key, {}).setdefault(kind, values.pop("label"))
                    for name, value in values.items():
                        sample.setdefault(name, value)
                else:
                    left_out[f".{kind}"] += 1
    for key, by_kind in labels.items():
        ordered = {kind: by_kind[kind] for kind in _LABEL_FILES if kind in by_kind}
        samples[key]["label"] = next(iter(ordered.values()))
        if len(set(ordered.values())) > 1:
            samples[key][_LABELS] = json.dumps([key, ordered], ensure_ascii=False)
    rows = [sample for sample in samples.values() if "path" in sample]
    notes = [f"{count} {kind} files of {shard.name} left out" for kind, count in left_out.items()]
    if lacking := len(samples) - len(rows):
        notes.append(f"{lacking} labels of {shard.name} left out: they have no image")
    return pd.DataFrame(rows, dtype=object).fillna(""), notes


def _key(name: str) -> tuple[str, str]:
    """Return the name that the files of a sample share, and the kind of a file: up to and after the first dot."""
    folder, _, base = name.replace("\\", "/").rpartition("/")
    stem, _, kind = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), kind.lower()


def _values(kind: str, data: bytes) -> dict[str, str]:
    """Return the label and other values of a sample's text file; none if it is no label."""
    text = data.decode("utf-8", "replace").strip()
    if kind == "cls":
        return {"label": text} if text else {}
    if kind == "txt":  # a label, or a description of the image
        return {"label": text} if canonical(text) is not None or text.isdecimal() else {}
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(record, dict):
        return {}
    plain = {str(key): value for key, value in record.items() if isinstance(value, str | int | float | bool)}
    lower = {key.lower(): key for key in reversed(list(plain))}
    label = next((lower[name] for name in COLUMN_NAMES["label"] if name in lower), None)
    values = {key: str(value) for key, value in plain.items() if key not in ("path", label)}
    return values | ({} if label is None else {"label": str(plain[label])})
