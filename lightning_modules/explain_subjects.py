"""The images to explain: chosen from a run's held-out ones or new pictures, with pixels, landmarks and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from datamodules.errors import InputError
from datamodules.faces.detector import Detector
from datamodules.manifest import Manifest
from datamodules.pictures import find_pictures
from datamodules.pixels import Fit, content_hash, decode, fit_to_square
from lightning_modules.explain import Subjects
from lightning_modules.explain_choice import targets_of
from lightning_modules.explain_faces import carriers, found_landmarks, known_landmarks
from lightning_modules.explain_folds import CLOSE, FoldNetworks, HeldOut, check_same_network


@dataclass(frozen=True)
class Source:
    """Where held-out images come from: the run's data, and how it is named."""

    manifest: Manifest
    name: str


def held_out_subjects(
    networks: FoldNetworks, source: Source, table: pd.DataFrame, target: str, detector: Detector | None
) -> tuple[Subjects, list[str]]:
    """Return held-out images as the network saw them when it was evaluated, and what to tell of them.

    Args:
        networks: The run's.
        source: Its data.
        table: Rows of its prediction table.
        target: See `targets_of`.
        detector: Finds landmarks where the data tells none.

    Raises:
        InputError: A picture is not what it was at the evaluation, or the network does not answer as it did then.
    """
    rows, manifest = table["row"].to_numpy(), source.manifest
    size, fit = networks.pixels(int(table["fold"].iloc[0]))
    decoded = [decode(manifest.file(int(row))) for row in tqdm(rows, "reading", unit="image", delay=1, disable=None)]
    changed = [
        path
        for path, content, image in zip(table["path"], table["content"], decoded, strict=True)
        if content_hash(image) != content
    ]
    if changed:
        msg = (
            f"--data: {len(changed)} of {len(rows)} pictures changed since run {networks.held.name!r} was evaluated, "
            f"such as {changed[0]}; give the data as it was then, or train again"
        )
        raise InputError(msg)
    images = np.stack([fit_to_square(image, size, fit) for image in decoded])
    landmarks = known_landmarks(manifest, rows, [image.shape[:2] for image in decoded], size, fit)
    _detect(landmarks, decoded, detector, size, fit)
    found = networks.probabilities(images, table["fold"].to_numpy(np.int64))
    apart = check_same_network(table, networks.held.classes, found)
    notes = [f"the networks answer up to {apart:.3f} away from the prediction table"] if apart > CLOSE else []
    masks = carriers(source.name, manifest, rows, size, fit)
    return Subjects(table, images, landmarks, masks, targets_of(table, networks.held.classes, target)), notes


def new_subjects(
    networks: FoldNetworks, files: Sequence[Path], fold: int, target: str, detector: Detector | None
) -> Subjects:
    """Return new pictures, whose label nobody knows, with one fold's answers; their rows count down from -1."""
    held = networks.held
    size, fit = networks.pixels(fold)
    decoded = [decode(file) for file in tqdm(files, "reading", unit="image", delay=1, disable=None)]
    images = np.stack([fit_to_square(image, size, fit) for image in decoded])
    probabilities = networks[fold].scores(images)
    count, names = len(files), np.asarray(held.classes, object)
    known = {
        "row": -1 - np.arange(count),
        "path": [str(file) for file in files],
        "content": [content_hash(image) for image in decoded],
        "cluster": held.predictions["cluster"].max() + 1 + np.arange(count),
        "fold": np.full(count, fold),
        "predicted": names[probabilities.argmax(axis=1)],
    }
    known |= {f"prob_{name}": probabilities[:, index] for index, name in enumerate(held.classes)}
    columns = {name: known.get(name, [""] * count) for name in held.predictions if name != "run_protocol"}
    table = pd.DataFrame(columns)
    landmarks = np.full((count, 5, 2), np.nan, np.float32)
    _detect(landmarks, decoded, detector, size, fit)
    return Subjects(table, images, landmarks, None, targets_of(table, held.classes, target))


def _detect(
    landmarks: np.ndarray, decoded: Sequence[np.ndarray], detector: Detector | None, size: int, fit: Fit
) -> None:
    """Find, in place, the landmarks that are not known yet."""
    if detector is None:
        return
    missing = np.flatnonzero(np.isnan(landmarks).any(axis=(1, 2)))
    for number in tqdm(missing.tolist(), "finding faces", unit="image", delay=1, disable=None):
        landmarks[number] = found_landmarks(detector, decoded[number], size, fit)


def sort_paths(held: HeldOut, manifest: Manifest, names: Sequence[str]) -> tuple[list[int], list[Path]]:
    """Tell which names are pictures of the run's data, as rows of it, and which are new pictures, as files.

    A new file that holds the same pixels as a held-out picture is that picture.

    Raises:
        InputError: It is neither.
    """
    by_path = {path: row for row, path in enumerate(manifest.table["path"])}
    by_content = dict(zip(held.predictions["content"], held.predictions["row"], strict=True))
    root = manifest.root.resolve()
    rows: list[int] = []
    files: list[Path] = []
    for name in names:
        if name in by_path:
            rows.append(by_path[name])
            continue
        try:
            found = find_pictures(name)
        except InputError as error:
            msg = f"--paths: {name} is no picture of the run's data, and: {str(error).removeprefix('--data: ')}"
            raise InputError(msg) from error
        for file in found:
            whole = file.resolve()
            inside = whole.relative_to(root).as_posix() if whole.is_relative_to(root) else ""
            if inside in by_path:
                rows.append(by_path[inside])
            elif (row := by_content.get(content_hash(decode(file)))) is not None:
                rows.append(int(row))
            else:
                files.append(file)
    return rows, files
