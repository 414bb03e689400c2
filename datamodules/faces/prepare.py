"""Photographs -> a folder of face crops with their manifest; goes on after a stop and does only what changed."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path, PurePosixPath

import filelock
import pandas as pd
from tqdm import tqdm

from datamodules.contents import file_hashes
from datamodules.errors import InputError
from datamodules.faces.cut import CUT_VERSION
from datamodules.faces.detector import FIND_VERSION, Detector, open_detector
from datamodules.faces.journal import NAME, Journal
from datamodules.faces.tables import COLUMNS, write_tables
from datamodules.faces.work import PARTS, QUALITY, CutOptions, Job, Record, work
from datamodules.labels import VOCABULARIES
from datamodules.manifest import Manifest, make_manifest
from datamodules.pixels import DECODE_POLICY
from datamodules.places import images_root
from datamodules.processes import cores, processes

CROPS = "faces"  # the crops' folder below the output
CHUNK = 8
UNLABELLED = "unlabelled"  # label of images without a label
FEW = 96  # below this, starting processes costs more than it saves


@dataclass(frozen=True)
class Prepared:
    """What was done, in pictures."""

    manifest: Manifest
    found: int  # with a face
    several: int  # with more than one
    empty: int  # without
    unreadable: int
    done: int  # worked on this time; the others stood already
    removed: int  # crops that nothing asks for any more


def unlabelled_images(source: str) -> Manifest:
    """Return a manifest of unlabelled images, the same images that `emotion predict` finds.

    Args:
        source: An image, a folder, or a table of paths.

    Raises:
        InputError: There is no image.
    """
    from datamodules.pictures import find_pictures  # torch takes seconds to import

    images = find_pictures(source)
    root = images_root(source, images)
    table = pd.DataFrame({"path": [path.absolute().relative_to(root.absolute()).as_posix() for path in images]})
    classes = (UNLABELLED, *VOCABULARIES["fer2013"])  # a manifest needs at least two classes
    return make_manifest(table.assign(label=UNLABELLED), root, name=root.resolve().name, classes=classes)


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
    face_source, face, face_box, face_score, face_count, face_detector, face_size, face_margin), ``boxes.csv`` (every
    face that was found, by the photograph's path) and ``no_face.csv`` (photographs without one, and unreadable ones,
    with the reason).

    Args:
        manifest: the photographs.
        detector: as :func:`~datamodules.faces.detector.open_detector` takes it.
        output: a new or empty folder, or one that this function wrote; outside of the photographs' folder.
        options: how to choose and cut.
        workers: processes; default one a core, and none for a few pictures.
        fresh: do everything anew.

    Raises:
        InputError: a bad argument, no face at all, or a folder that cannot be written.
    """
    opened = open_detector(detector)
    if options.upright and not opened.tells_eyes:
        msg = f"upright needs the eyes, which {opened.name} does not tell; choose yunet:FILE or leave upright out"
        raise InputError(msg)
    if taken := [column for column in COLUMNS if column in manifest.table]:
        msg = f"data: the column {taken[0]!r} is one that cutting faces writes itself; rename it (or cut the originals)"
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
                return _finish(manifest, opened, options, output, journal, len(jobs))
    except filelock.Timeout as error:
        msg = f"another process is cutting faces into {output}; wait for it, or give another --output"
        raise InputError(msg) from error
    except BrokenProcessPool as error:
        msg = (
            "a process that cuts faces was ended from outside, most often for want of memory; the same command goes on "
            "where it stopped"
        )
        raise InputError(msg) from error
    except OSError as error:
        msg = (
            f"cannot write to {output}: {error.strerror or error}. Choose a folder of yours with room as --output; the "
            "same command goes on where this one stopped"
        )
        raise InputError(msg) from error


def _check_folder(output: Path, manifest: Manifest) -> None:
    """Refuse to mix crops with other people's files, or with the photographs that a later reading would find."""
    place, root = output.resolve(), manifest.root.resolve()
    if place.is_relative_to(root) or root.is_relative_to(place):
        near = root.with_name(f"{root.name}-faces")
        msg = (
            f"output {output} and the photographs' folder {root} lie in one another, where crops would be taken for "
            f"photographs; give a folder beside it, such as {near}"
        )
        raise InputError(msg)
    if output.exists() and not output.is_dir():
        msg = f"output {output} is a file; faces are written into a folder, give another name"
        raise InputError(msg)
    try:
        foreign = (
            output.is_dir()
            and not (output / NAME).is_file()
            and any(child.name not in (PARTS, ".lock") for child in output.iterdir())
        )
    except OSError as error:
        msg = f"cannot look into the output folder {output}: {error.strerror}; choose a folder of yours"
        raise InputError(msg) from error
    if foreign:
        msg = f"output {output} holds files that this command did not write; give a new or an empty folder"
        raise InputError(msg)


def _plan(
    manifest: Manifest,
    contents: list[str],
    detector: Detector,
    options: CutOptions,
    journal: Journal,
    output: Path,
) -> list[Job]:
    """Return what is still to be done; for a picture whose faces are known, only the cutting."""
    found_key = _found_key(detector)
    face = (CUT_VERSION, options.margin, options.size, options.rule, options.border, options.upright, QUALITY)
    cut_key, empty_key = _key(found_key, *face), _key(found_key, options.no_face, options.size, QUALITY)
    paths = [str(path) for path in manifest.table["path"]]
    jobs = []
    for row, (path, crop) in enumerate(zip(paths, crop_names(paths), strict=True)):
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
    return _key(FIND_VERSION, DECODE_POLICY, detector.identity)


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def crop_names(paths: list[str]) -> list[str]:
    """Return where the crops go: as the photographs but for the suffix, unless two would share a name."""
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
    shutil.rmtree(output / PARTS)  # what a killed run left; the lock says that it is gone
    (output / PARTS).mkdir()
    if jobs:
        (output / "manifest.csv").unlink(missing_ok=True)  # it no longer tells what stands here
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
    manifest: Manifest, detector: Detector, options: CutOptions, output: Path, journal: Journal, done: int
) -> Prepared:
    records = [journal.records[str(path)] for path in manifest.table["path"]]
    removed = journal.tidy(record["path"] for record in records)
    _remove_empty(output / CROPS)
    shutil.rmtree(output / PARTS, ignore_errors=True)
    return Prepared(
        manifest=write_tables(manifest, records, detector.name, output, options),
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
