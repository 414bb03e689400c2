"""Cut faces out of photographs into a folder with a manifest; resumes after a stop, and repeats only what changed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path, PurePosixPath
from types import TracebackType

import filelock
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.faces.boxes import areas, clip
from datamodules.faces.crop import CUT_VERSION, PARTS, QUALITY, CutOptions, Job, Record, cut, faces_of, work
from datamodules.faces.detectors import FIND_VERSION, LANDMARKS, Detector, model_digest, open_detector, with_whole_path
from datamodules.files.image_files import collect_left_out
from datamodules.files.images import decode_file, decoding, fit_to_square
from datamodules.files.paths import file_hashes, images_root, path_text, replacing
from datamodules.labels import VOCABULARIES
from datamodules.manifest import Manifest, make_manifest
from datamodules.processes import cores, processes

NAME = ".faces.jsonl"


class Journal:
    """Journal of processed images: one line per image, added after its crop; the last line of a path counts.

    An incomplete line, left by a killed process, is ignored, so that its image is processed again.

    Args:
        folder: folder of the crops.
        fresh: process all images again; the list of crops written before is kept.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.path = folder / NAME
        self.records: dict[str, Record] = {}
        self.crops: set[str] = set()  # every crop ever written, also with other options
        for record in _lines(self.path):
            self.crops.add(record["crop"])
            self.records[record["path"]] = record
        self.crops.discard("")
        if fresh:
            self.records.clear()

    def __enter__(self) -> "Journal":
        torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
        self._file = self.path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, records: Iterable[Record]) -> None:
        """Append records and flush them to the disk."""
        for record in records:
            self.records[record["path"]] = record
            if record["crop"]:
                self.crops.add(record["crop"])
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def tidy(self, paths: Iterable[str]) -> int:
        """Delete crops that no image of ``paths`` uses any more, and rewrite the journal; return their number."""
        kept = {path: self.records[path] for path in paths}
        folder = self.path.parent
        gone = 0
        for crop in sorted(self.crops - {record["crop"] for record in kept.values()}):
            if (folder / crop).resolve().is_relative_to(folder.resolve()) and (folder / crop).is_file():
                (folder / crop).unlink()
                gone += 1
        with replacing(self.path) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in kept.values())
        return gone


def _lines(path: Path) -> Iterator[Record]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and {"path", "state", "found", "cut", "faces", "crop", "error"} <= set(record):
                yield record


COLUMNS = (
    *("face_source", "face", "face_box", "face_score", "face_count", "face_detector", "face_size", "face_margin"),
    *("face_cut", "face_digest"),
)
"""Columns that the crops' manifest has besides those of the photographs. ``face`` is face, whole or centre."""

NO_FACE_REASON = "no face found"


def write_tables(
    manifest: Manifest,
    records: list[Record],
    detector: str,
    output: Path,
    options: CutOptions,
    finder: str,
) -> Manifest:
    """Write the three tables and return the crops' manifest.

    Args:
        manifest: the photographs.
        records: one per row of the manifest.
        detector: name of the detector.
        output: folder of the crops.
        options: how they were cut.
        finder: the detector as `Manifest.detector` keeps it.

    Raises:
        InputError: there is no crop at all; the other two tables are written nevertheless.
    """
    _write(_boxes(records, detector), output / "boxes.csv")
    missing = _missing(manifest, records)
    _write(missing, output / "no_face.csv")
    rows = [row for row, record in enumerate(records) if record["shown"]]
    if not rows:
        msg = (
            f"{detector} found no face in any of the {len(records)} images; {output / 'no_face.csv'} lists them with "
            "the reason. Try another detector, or --no-face keep or centre"
        )
        raise InputError(msg)
    table = manifest.table.iloc[rows].reset_index(drop=True)
    shown = [records[row] for row in rows]
    table = table.assign(
        path=[record["crop"] for record in shown],
        face_source=manifest.plain_paths.iloc[rows].tolist(),
        face=[record["shown"] for record in shown],
        face_box=[" ".join(f"{value:.1f}" for value in _box(record)) for record in shown],
        face_score=["" if record["chosen"] is None else f"{_score(record):.4f}" for record in shown],
        face_count=[str(len(record["faces"])) for record in shown],
        face_detector=detector,
        face_size=str(options.size),
        face_margin=f"{options.margin:g}",
        face_cut=f"{options.rule} {options.border}{' upright' if options.upright else ''}",
        face_digest=model_digest(finder),
    )
    notes = [*manifest.notes, f"faces cut by {detector} from {manifest.root}"]
    if left := len(records) - len(rows):
        notes.append(f"{left} of {len(records)} images are left out, no_face.csv lists them with the reason")
    crops = make_manifest(table, output, name=f"{manifest.name}-faces", classes=manifest.classes, notes=tuple(notes))
    crops = replace(crops, detector=finder)
    crops.save(output / "manifest.csv")
    return crops


def _box(record: Record) -> list[float]:
    """Return the box of the chosen face within the image, [] if there is none."""
    if record["chosen"] is None:
        return []
    width, height = record["size"]
    box = clip(np.array(record["faces"][record["chosen"]][:4], np.float64), height, width)
    return (box * record.get("reduced", 1)).tolist()


def _score(record: Record) -> float:
    return float(record["faces"][record["chosen"]][4])


def _boxes(records: list[Record], detector: str) -> pd.DataFrame:
    points = [f"{name}_{axis}" for name in LANDMARKS for axis in "xy"]
    columns = ["path", "x0", "y0", "x1", "y1", "score", "chosen", *points, "detector"]
    rows = []
    for record in records:
        faces = faces_of(record["faces"])
        width, height = record["size"]
        reduced = record.get("reduced", 1)  # tables have pixels of the image, not of one decoded smaller
        boxes = clip(faces.boxes, height, width) * reduced
        for number, box in enumerate(boxes.tolist()):
            known = [*box, float(faces.scores[number]), int(number == record["chosen"])]
            rows.append([record["path"], *known, *(faces.landmarks[number].ravel() * reduced).tolist(), detector])
    return pd.DataFrame(rows, columns=columns)


def _missing(manifest: Manifest, records: list[Record]) -> pd.DataFrame:
    rows = [row for row, record in enumerate(records) if not record["faces"]]
    table = manifest.table.iloc[rows].reset_index(drop=True)
    first = pd.DataFrame(
        {
            "path": table["path"],
            "reason": [records[row]["error"] or NO_FACE_REASON for row in rows],
            "used": [records[row]["shown"] or "left out" for row in rows],
        }
    )
    return pd.concat([first, table.drop(columns="path")], axis=1)


def _write(table: pd.DataFrame, path: Path) -> None:
    with replacing(path) as part:
        table.to_csv(part, index=False, float_format="%.4f")


CROPS = "faces"  # the crops' folder below the output
CHUNK = 8
UNLABELLED = "unlabelled"  # label of images without a label
FEW = 96  # below this, starting processes costs more than it saves


@dataclass(frozen=True)
class Prepared:
    """Result of a preparation, as numbers of images."""

    manifest: Manifest
    found: int  # with a face
    several: int  # with more than one
    empty: int  # without
    unreadable: int
    done: int  # processed by this call; the others existed
    removed: int  # deleted crops that are no longer used


def unlabelled_images(source: str) -> Manifest:
    """Return a manifest of unlabelled images, the same images that `emotion predict` finds.

    Args:
        source: An image, a folder, or a table of paths.

    Raises:
        InputError: There is no image.
    """
    from datamodules.unlabelled import find_images

    with collect_left_out() as left_out:
        images = find_images(source)
    root = images_root(source, images)
    names = [path_text(path.absolute().relative_to(root.absolute()).as_posix()) for path in images]
    table, notes = pd.DataFrame({"path": names}), tuple(filter(None, [left_out.line]))
    classes = (UNLABELLED, *VOCABULARIES["fer2013"])  # a manifest needs at least two classes
    name = path_text(root.resolve().name)
    return make_manifest(table.assign(label=UNLABELLED), root, name=name, classes=classes, notes=notes)


def prepare_faces(
    manifest: Manifest,
    detector: str,
    output: Path,
    options: CutOptions = CutOptions(),  # noqa: B008 - frozen
    *,
    workers: int | None = None,
    fresh: bool = False,
) -> Prepared:
    """Cut the faces out of a set of photographs.

    ``output`` gets ``faces/`` (the crops, JPEG), ``manifest.csv`` (all columns of the photographs' manifest and
    the columns `COLUMNS`), ``boxes.csv`` (every
    face that was found, by the photograph's path) and ``no_face.csv`` (photographs without one, and unreadable ones,
    with the reason).

    Args:
        manifest: the photographs.
        detector: as :func:`~datamodules.faces.detectors.open_detector` takes it.
        output: a new or empty folder, or one that this function wrote; outside of the photographs' folder.
        options: how to choose and cut.
        workers: processes; default one per core, none for a few images.
        fresh: process all images again.

    Raises:
        InputError: a bad argument, no face at all, or a folder that cannot be written.
    """
    opened = open_detector(detector)
    if options.upright and not opened.has_landmarks:
        msg = f"--upright: needs eye landmarks, which {opened.name} does not give; choose yunet:FILE, or leave it out"
        raise InputError(msg)
    if taken := [column for column in COLUMNS if column in manifest.table]:
        msg = f"data: this command would overwrite the column {taken[0]!r}; rename it, or use the original photographs"
        raise InputError(msg)
    output = output.expanduser().absolute()
    _check_folder(output, manifest)
    contents = file_hashes(manifest.root, manifest.table["path"].tolist())
    jobs = _plan(manifest, contents, opened, options, Journal(output, fresh=fresh), output)
    if workers is None:
        workers = 0 if len(jobs) < FEW else cores()
    try:
        with processes(min(workers, -(-len(jobs) // CHUNK))) as pool:
            (output / PARTS).mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(output / ".lock", timeout=0):
                journal = Journal(output, fresh=fresh)
                jobs = _plan(manifest, contents, opened, options, journal, output)
                _work_all(jobs, detector, opened, options, output, journal, pool)
                return _finish(manifest, opened, options, output, journal, len(jobs), detector)
    except filelock.Timeout as error:
        msg = f"another process is cutting faces into {output}; wait for it, or give another --output"
        raise InputError(msg) from error
    except BrokenProcessPool as error:
        msg = (
            "a process that cuts faces was killed, most often because memory ran out; the same command continues "
            "where it stopped"
        )
        raise InputError(msg) from error
    except OSError as error:
        msg = (
            f"cannot write to {output}: {error.strerror or error}. Choose an --output that you may write to, with free "
            "space; the same command continues where this one stopped"
        )
        raise InputError(msg) from error


def _check_folder(output: Path, manifest: Manifest) -> None:
    """Raise if the output folder has other files, or if it or the photographs' folder contains the other one."""
    place, roots = output.resolve(), [manifest.root / folder for _, folder in manifest.sets] or [manifest.root]
    for root in (folder.resolve() for folder in roots):
        if place.is_relative_to(root) or root.is_relative_to(place):
            near = root.with_name(f"{root.name}-faces")
            msg = (
                f"--output: {output} and the photographs' folder {root} contain one another, so crops would be read as "
                f"photographs; give a folder beside it, such as {near}"
            )
            raise InputError(msg)
    if output.exists() and not output.is_dir():
        msg = f"--output: {output} is a file; faces are written into a folder, give another name"
        raise InputError(msg)
    try:
        foreign = (
            output.is_dir()
            and not (output / NAME).is_file()
            and any(child.name not in (PARTS, ".lock") for child in output.iterdir())
        )
    except OSError as error:
        msg = (
            f"--output: cannot read the folder {output}: {error.strerror}; choose a folder that you may read and write"
        )
        raise InputError(msg) from error
    if foreign:
        msg = f"--output: {output} holds files that this command did not write; give a new or an empty folder"
        raise InputError(msg)


def _plan(
    manifest: Manifest,
    contents: list[str],
    detector: Detector,
    options: CutOptions,
    journal: Journal,
    output: Path,
) -> list[Job]:
    """Return the images that are left to process; where the faces are known, they are only cut."""
    found_key = _found_key(detector)
    face = (CUT_VERSION, options.margin, options.size, options.rule, options.border, options.upright, QUALITY)
    cut_key, empty_key = _key(found_key, *face), _key(found_key, options.no_face, options.size, QUALITY)
    paths = [str(path) for path in manifest.table["path"]]
    jobs = []
    crops = crop_names([str(path) for path in manifest.plain_paths])
    for row, (path, crop) in enumerate(zip(paths, crops, strict=True)):
        file, state = manifest.file(row), contents[row] or "unreadable"  # which decoding reports
        record = journal.records.get(path)
        if record and (record["state"], record["found"]) != (state, found_key):
            record = None
        if record and _stands(record, cut_key if record["faces"] else empty_key, crop, output):
            continue
        if record and record["error"]:
            record = None
        jobs.append(Job(path, file, state, crop, cut_key, empty_key, record))
    return jobs


def _stands(record: Record, key: str, crop: str, output: Path) -> bool:
    if record["error"]:
        return True
    if record["cut"] != key:
        return False
    if not record["shown"]:
        return True
    try:
        return record["crop"] == crop and (output / crop).stat().st_size == record["bytes"]
    except OSError:
        return False


def _found_key(detector: Detector) -> str:
    return _key(FIND_VERSION, *decoding(), detector.identity)


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def crop_names(paths: list[str]) -> list[str]:
    """Return the paths of the crops: those of the photographs with another suffix, made unique."""
    short = [str(PurePosixPath(CROPS, path).with_suffix(".jpg")) for path in paths]
    times: dict[str, int] = {}
    for name in short:
        times[name.casefold()] = times.get(name.casefold(), 0) + 1
    long = [f"{CROPS}/{path}.jpg" for path in paths]
    names = [full if times[name.casefold()] > 1 else name for name, full in zip(short, long, strict=True)]
    return names if len({name.casefold() for name in names}) == len(names) else long


def _work_all(
    jobs: list[Job],
    name: str,
    detector: Detector,
    options: CutOptions,
    output: Path,
    journal: Journal,
    pool: ProcessPoolExecutor | None,
) -> None:
    shutil.rmtree(output / PARTS)  # left by a killed process; the lock shows that it has ended
    (output / PARTS).mkdir()
    if jobs:
        (output / "manifest.csv").unlink(missing_ok=True)  # it no longer describes the folder
    with tqdm(total=len(jobs), desc="Cutting faces", unit="", delay=1, disable=None) as bar, journal:
        for records in _results(jobs, name, detector, options, output, pool):
            journal.add(records)
            bar.update(len(records))


def _results(
    jobs: list[Job],
    name: str,
    detector: Detector,
    options: CutOptions,
    output: Path,
    pool: ProcessPoolExecutor | None,
) -> Iterator[list[Record]]:
    key = _found_key(detector)
    chunks = [jobs[first : first + CHUNK] for first in range(0, len(jobs), CHUNK)]
    if pool is None:
        for chunk in chunks:
            yield work(name, key, output, options, chunk, detector)
    else:
        yield from pool.map(work, repeat(name), repeat(key), repeat(output), repeat(options), chunks)


def _finish(
    manifest: Manifest,
    detector: Detector,
    options: CutOptions,
    output: Path,
    journal: Journal,
    done: int,
    name: str,
) -> Prepared:
    records = [journal.records[str(path)] for path in manifest.table["path"]]
    removed = journal.tidy(record["path"] for record in records)
    _remove_empty(output / CROPS)
    shutil.rmtree(output / PARTS, ignore_errors=True)
    return Prepared(
        manifest=write_tables(manifest, records, detector.name, output, options, with_whole_path(name)),
        found=sum(record["chosen"] is not None for record in records),
        several=sum(len(record["faces"]) > 1 for record in records),
        empty=sum(not record["faces"] and not record["error"] for record in records),
        unreadable=sum(bool(record["error"]) for record in records),
        done=done,
        removed=removed,
    )


def _remove_empty(folder: Path) -> None:
    for place, _, _ in os.walk(folder, topdown=False):
        if not os.listdir(place):
            os.rmdir(place)


BoxJob = tuple[str, list[int], np.ndarray]  # file of an image, rows of its faces, their boxes (n, 4)


def write_crops(
    files: Sequence[Path],
    boxes: np.ndarray,
    folder: Path,
    size: int,
    margin: float,
    pool: ProcessPoolExecutor | None = None,
) -> pd.DataFrame:
    """Write ``<row>.jpg`` for each row; the whole image where the box is not a number. Each image is decoded once.

    Args:
        files: Image of each row, N.
        boxes: (N, 4) x0, y0, x1, y1 in pixels of the upright image.
        folder: Where the crops go.
        size: Side of the crops.
        margin: As :func:`~datamodules.faces.crop.cut` takes it.
        pool: Processes to share the work with.

    Returns:
        ``row`` and ``error`` of the rows without a crop: their image cannot be read, or their box lies outside of it.
    """
    rows_of = pd.Series(range(len(files))).groupby([str(file) for file in files], sort=False).indices
    jobs: list[BoxJob] = [(file, rows.tolist(), boxes[rows]) for file, rows in rows_of.items()]
    chunks = [jobs[first : first + CHUNK] for first in range(0, len(jobs), CHUNK)]
    write = partial(_write_faces, folder=folder, size=size, margin=margin)
    errors: list[tuple[int, str]] = []
    with tqdm(total=len(jobs), desc="Cutting faces", unit=" images", delay=1, leave=False, disable=None) as bar:
        for chunk, failed in zip(chunks, map(write, chunks) if pool is None else pool.map(write, chunks), strict=True):
            errors += failed
            bar.update(len(chunk))
    return pd.DataFrame(errors, columns=["row", "error"]).sort_values("row", ignore_index=True)


def _write_faces(jobs: Sequence[BoxJob], folder: Path, size: int, margin: float) -> list[tuple[int, str]]:
    errors = []
    for file, rows, boxes in jobs:
        try:
            decoded = decode_file(file)
        except InputError as error:
            errors += [(row, str(error)) for row in rows]
            continue
        image = decoded.image
        for row, given in zip(rows, boxes, strict=True):
            box = given / decoded.reduced
            known = bool(np.isfinite(box).all())
            if known and not areas(clip(box[None], *image.shape[:2]))[0]:
                values = ", ".join(f"{value:g}" for value in given)
                problem = f"the box of row {row}, {values}, lies outside of {path_text(Path(file).name)!r}, which is "
                errors.append(
                    (row, f"{problem}{decoded.width}x{decoded.height}; boxes are pixels of the upright image")
                )
                continue
            crop = cut(image, box, size, margin=margin) if known else fit_to_square(image, size, "pad")
            Image.fromarray(crop).save(folder / f"{row:07d}.jpg", "JPEG", quality=QUALITY, subsampling=0)
    return errors
