"""Which of a run's held-out images are explained: so many of each class and group, or those at given rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.faces.crop import choose
from datamodules.faces.detectors import LANDMARKS, Detector
from datamodules.images import Fit, fit_to_square
from datamodules.manifest import Manifest
from datamodules.readers import ReadOptions, read
from datamodules.readers.face_crops import FaceCrops
from datamodules.synthetic import draw, parse_spec
from emotion.explanation.methods import Network
from lightning_modules.backbones import best_device
from lightning_modules.checkpoints import require_classes
from lightning_modules.predictor import Trained, load_trained
from results.bias.groups import Grouping
from results.predictions import check_predictions, classes_of
from results.tracking.runs import children, find_whole_run, load_table, run_checkpoint, run_config, run_row

Answers = Literal["correct", "wrong", "any"]
ANSWERS: tuple[Answers, ...] = get_args(Answers)


def choose_images(
    predictions: pd.DataFrame,
    classes: Sequence[str],
    number: int,
    by: Sequence[Grouping] = (),
    *,
    answers: Answers = "correct",
    seed: int = 0,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Choose up to `number` images of each class, or of each class and group, at random, of different clusters first.

    Args:
        predictions: The prediction table.
        classes: All classes, also those without images.
        number: So many at most in a cell.
        by: Groupings; an image may serve in one cell of each.
        answers: Of images that were answered correctly, wrongly, or of all.
        seed: The same gives the same images.

    Returns:
        Their places in the table, rising; and one row a cell: by, group, class, chosen, eligible, images.

    Raises:
        InputError: There is none at all.
    """
    if number < 1:
        msg = f"--images: at least 1 of each class, got {number}"
        raise InputError(msg)
    label = predictions["label"].to_numpy(object)
    right = label == predictions["predicted"].to_numpy(object)
    eligible = {"correct": right, "wrong": ~right, "any": np.ones(len(right), bool)}[answers]
    shuffled = np.random.default_rng(seed).permutation(len(predictions))
    chosen = np.zeros(len(predictions), bool)
    cells: list[tuple[str, str, str, np.ndarray]] = []
    everybody = ("", np.full(len(predictions), "", object), ("",))
    for name, group, groups in [(one.name, one.of(predictions), one.groups) for one in by] or [everybody]:
        for value in groups:
            for label_name in classes:
                there = (label == label_name) & (group == value)
                left = shuffled[(there & eligible & ~chosen)[shuffled]]
                wanted = max(0, number - int((chosen & there).sum()))  # some were chosen for another grouping
                chosen[_different_first(left, predictions["cluster"].to_numpy())[:wanted]] = True
                cells.append((name, value, label_name, there))
    if not chosen.any():
        msg = (
            f"--images: none of the {len(predictions)} held-out images was answered "
            f"{ {'correct': 'correctly', 'wrong': 'wrongly', 'any': 'at all'}[answers] }, so there is none to explain; "
            "--answers any takes all"
        )
        raise InputError(msg)
    counts = [
        {
            "by": name,
            "group": value,
            "class": label_name,
            "chosen": int((chosen & there).sum()),
            "eligible": int((eligible & there).sum()),
            "images": int(there.sum()),
        }
        for name, value, label_name, there in cells
    ]
    return np.flatnonzero(chosen), pd.DataFrame(counts)


def _different_first(rows: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return rows so that the first of every cluster comes before the second of any."""
    turn = pd.Series(clusters[rows]).groupby(clusters[rows]).cumcount().to_numpy()
    return rows[np.argsort(turn, kind="stable")]


def cell_lines(cells: pd.DataFrame, predictions: pd.DataFrame, number: int, answers: Answers) -> list[str]:
    """Return what to tell of cells that have fewer images than wanted, and of classes that are never predicted."""
    said = {"correct": "answered correctly", "wrong": "answered wrongly", "any": "there"}[answers]
    lines = []
    for row in cells[cells["chosen"] < number].to_dict("records"):
        group = f" / {row['group']}" if row["group"] else ""
        lines.append(
            f"{row['class']}{group}: {row['chosen']} of {number} wanted; "
            f"{row['eligible']} of its {row['images']} images are {said}"
        )
    never = sorted(set(cells["class"]) - set(predictions["predicted"]))
    lines += [f"{name} was never predicted" for name in never]
    return lines


def places_of_rows(predictions: pd.DataFrame, split: pd.DataFrame | None, rows: Sequence[int]) -> np.ndarray:
    """Return the places in the table of rows of the data.

    Raises:
        InputError: A row that no fold held out.
    """
    place = pd.Series(np.arange(len(predictions)), index=predictions["row"])
    for row in rows:
        if row not in place.index:
            role = ""
            if split is not None and (split["row"] == row).any():
                used = split[split["row"] == row].iloc[0]
                role = f" (fold {used['fold']} had it for its {used['role']} part)"
            msg = (
                f"--rows: row {row} was held out by no fold{role}, so no checkpoint of the run may explain it; the run "
                f"held out {len(place)} rows, such as {', '.join(map(str, place.index[:5]))}"
            )
            raise InputError(msg)
    return place[list(dict.fromkeys(rows))].to_numpy()


def targets_of(table: pd.DataFrame, classes: Sequence[str], wanted: str) -> np.ndarray:
    """Return the index of the class that is explained of each image, int64 (N,).

    Args:
        table: With columns label and predicted.
        classes: Their names.
        wanted: ``predicted``, ``label`` (predicted where no label is known), or the name of a class.

    Raises:
        InputError: No such class; the nearest is offered.
    """
    names = pd.Index(classes)
    if wanted in ("predicted", "label"):
        column = table["predicted"]
        if wanted == "label":
            column = table["label"].where(table["label"].isin(names), column)
        return names.get_indexer(pd.Index(column)).astype(np.int64)
    if wanted not in names:
        hint = did_you_mean(wanted, [*classes, "predicted", "label"], cutoff=0.4)
        raise invalid("--target", f"must be predicted, label or a class ({', '.join(classes)})", wanted, hint)
    return np.full(len(table), names.get_loc(wanted), np.int64)


CARRIERS = ("eyes", "brows", "nose", "mouth")
"""What moves when a drawn face shows an emotion."""

_COLUMNS = [f"{name}_{axis}" for name in LANDMARKS for axis in "xy"]  # as seen in the image: left is the right eye


def onto_square(points: np.ndarray, height: int, width: int, size: int, fit: Fit) -> np.ndarray:
    """Return where points of an image are once `fit_to_square` has made it square.

    Args:
        points: float (..., 2) x, y in the image, counted from the corner of its first pixel, as boxes are.
        height: of the image.
        width: of the image.
        size: side of the square.
        fit: as in `fit_to_square`.
    """
    box, place = np.array([width, height], float), np.zeros(2)
    corner = np.zeros(2)
    inner = np.array([size, size], float)
    if fit == "crop":
        side = min(height, width)
        corner = np.array([(width - side) // 2, (height - side) // 2], float)
        box = np.array([side, side], float)
    elif fit == "pad":
        scale = size / max(height, width)
        inner = np.array([max(1, round(width * scale)), max(1, round(height * scale))], float)
        place = (size - inner) // 2
    return (points - corner) * inner / box + place


def known_landmarks(
    manifest: Manifest, rows: np.ndarray, shapes: list[tuple[int, int]], size: int, fit: Fit
) -> np.ndarray:
    """Return the landmarks that the data's own table of faces tells, float32 (N, 5, 2); NaN where it tells none.

    Args:
        manifest: The data.
        rows: Rows of it.
        shapes: Height and width of each image.
        size: Side of what the network sees.
        fit: How an image is made square.
    """
    found = np.full((len(rows), len(LANDMARKS), 2), np.nan, np.float32)
    boxes = manifest.boxes
    if boxes is None or not set(_COLUMNS) <= set(boxes):
        return found
    if "chosen" in boxes:
        boxes = boxes[pd.to_numeric(boxes["chosen"]) == 1]
    boxes = boxes.drop_duplicates("path", keep=False).set_index("path")  # of several faces none is known to be meant
    points = boxes[_COLUMNS].apply(pd.to_numeric, errors="coerce").reindex(manifest.table["path"].iloc[rows])
    for number, (one, (height, width)) in enumerate(zip(points.to_numpy(np.float64), shapes, strict=True)):
        found[number] = onto_square(one.reshape(-1, 2), height, width, size, fit)
    return found


def found_landmarks(detector: Detector, image: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """Return the landmarks of the largest face of an image, float32 (5, 2) in what the network sees; NaN without."""
    faces = detector.detect([image])[0]
    height, width = image.shape[:2]
    number = choose(faces, height, width)
    if number is None:
        return np.full((len(LANDMARKS), 2), np.nan, np.float32)
    return onto_square(faces.landmarks[number].astype(np.float64), height, width, size, fit).astype(np.float32)


def carriers(source: str, manifest: Manifest, rows: np.ndarray, size: int, fit: Fit) -> np.ndarray | None:
    """Return the pixels that carry the emotion, bool (N, size, size), of drawn faces; None of any other data.

    Args:
        source: The data as it is named.
        manifest: The data.
        rows: Rows of it.
        size: Side of what the network sees.
        fit: How an image is made square.
    """
    if source != "drawn" and not source.startswith("drawn:"):
        return None
    spec = parse_spec(source)
    masks = np.zeros((len(rows), size, size), bool)
    for number, path in enumerate(manifest.table["path"].iloc[rows]):
        drawn = draw(spec, int(Path(path).stem)).masks  # a set may leave rows out, its files keep their numbers
        whole = np.logical_or.reduce([drawn[name] for name in CARRIERS])
        masks[number] = fit_to_square(np.repeat(whole[..., None], 3, 2).astype(np.uint8) * 255, size, fit)[..., 0] > 127
    return masks


CLOSE = 0.01  # of probabilities, between processors and precisions
FAR = 0.1


@dataclass(frozen=True)
class HeldOut:
    """A run's predictions of held-out images, and which run holds the network of each fold.

    Attributes:
        run_id: The run, or the parent of a cross-validation.
        name: Its name.
        predictions: Its prediction table.
        members: Fold -> the run whose checkpoint never saw the images of that fold.
    """

    run_id: str
    name: str
    predictions: pd.DataFrame
    members: dict[int, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by index."""
        return classes_of(self.predictions)

    @classmethod
    def of(cls, run: str) -> "HeldOut":
        """Read them from a run: its id, the beginning of that, its name or latest.

        Raises:
            InputError: it left no prediction table.
        """
        run_id = find_whole_run(run)
        info = run_row(run_id)
        try:
            predictions = load_table(run_id, "predictions")
        except InputError as error:
            below = children(run_id)
            below = below[below["status"] == "FINISHED"] if len(below) else below
            names = f" Runs below it that have finished: {', '.join(below['run_id'].str[:8].head(5))}."
            msg = (
                f"RUN: {info['name']!r} ({info['status']}) left no prediction table, so it is not known which images "
                "it never saw. Choose a finished `emotion fit` or `emotion cross-validate`."
            )
            raise InputError(msg + (names if len(below) else "")) from error
        check_predictions(predictions)
        found = sorted(int(fold) for fold in predictions["fold"].unique())
        try:
            folds = load_table(run_id, "folds")
        except InputError:
            folds = None
        if folds is None:
            members = dict.fromkeys(found, run_id)
        else:  # of a cross-validation; the predictions are those of its first seed
            first = folds[folds["seed"] == folds["seed"].iloc[0]]
            members = {int(fold): str(member) for fold, member in zip(first["fold"], first["run_id"], strict=True)}
        missing = [fold for fold in found if fold not in members]
        if missing or (folds is None and len(found) > 1):
            msg = f"RUN: {run_id} predicted folds {found}, but does not say whose checkpoints: run it again"
            raise InputError(msg)
        return cls(run_id, str(info["name"]), predictions, members)

    def manifest(self, data: str | None = None) -> tuple[Manifest, str]:
        """Read the data that the run used, or the same that lies elsewhere now; return it and its source.

        Raises:
            InputError: It has other classes, or other images at the rows that were predicted.
        """
        used: dict[str, Any] = run_config(self.members[min(self.members)]).get("data") or {}
        source = data or str(used["source"])
        manifest = read(source, ReadOptions(**(used.get("read") or {})))
        require_classes(list(self.classes), list(manifest.classes), f"run {self.name!r}")
        rows = self.predictions["row"].to_numpy()
        same = len(manifest) > rows.max() and np.array_equal(
            manifest.table["path"].to_numpy(object)[rows], self.predictions["path"].to_numpy(object)
        )
        if not same:
            msg = (
                f"--data: {source} is not what run {self.name!r} predicted: other images stand at its rows. Give the "
                "data as it was then"
            )
            raise InputError(msg)
        return manifest, source


class FoldNetworks:
    """The networks of a run's folds, each loaded when it is first needed."""

    def __init__(self, held: HeldOut) -> None:
        self.held = held
        self._loaded: dict[int, tuple[Trained, Network]] = {}

    def __getitem__(self, fold: int) -> Network:
        """Return the network that never saw the images of a fold."""
        return self._load(fold)[1]

    def _load(self, fold: int) -> tuple[Trained, Network]:
        if fold not in self._loaded:
            member = self.held.members.get(fold)
            if member is None:
                msg = f"--fold: the run has the folds {', '.join(map(str, sorted(self.held.members)))}, got {fold}"
                raise InputError(msg)
            try:
                path = run_checkpoint(member)
            except InputError as error:
                msg = (
                    f"RUN: fold {fold} (run {member[:8]}) keeps no checkpoint, and an image is explained by that of "
                    f"the fold which held it out. Train it again: emotion reproduce {self.held.run_id[:8]}"
                )
                raise InputError(msg) from error
            trained = load_trained(path)
            require_classes(trained.classes, list(self.held.classes), f"the checkpoint of fold {fold}")
            model = trained.model.to(best_device()).eval()
            self._loaded[fold] = trained, Network(model, model.probabilities, model.backbone)
        return self._loaded[fold]

    def pixels(self, fold: int) -> tuple[int, Fit]:
        """Return the side of the images that a fold's network sees, and how they are made square."""
        trained = self._load(fold)[0]
        return trained.size, trained.fit

    def faces(self, fold: int) -> FaceCrops | None:
        """Return how the faces were cut out that a fold's network was trained on; None for whole images."""
        return self._load(fold)[0].faces

    def backbone(self, fold: int) -> str:
        """Return the name of a fold's backbone."""
        return str(self._load(fold)[0].model.plain["backbone"])

    def probabilities(self, images: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """Return probabilities float32 (M, K) of images uint8 (M, H, W, 3), each by the network of its fold (M,)."""
        found = np.empty((len(images), len(self.held.classes)), np.float32)
        for fold in np.unique(folds):
            found[folds == fold] = self[int(fold)].scores(images[folds == fold])
        return found


def check_same_network(table: pd.DataFrame, classes: tuple[str, ...], found: np.ndarray) -> float:
    """Compare what a network says now with what the prediction table says; return the largest difference.

    Raises:
        InputError: It is no rounding error: these are not the checkpoint and pixels that the table was made from.
    """
    kept = table[[f"prob_{name}" for name in classes]].to_numpy(np.float64)
    apart = np.abs(kept - found).max(axis=1)
    if len(apart) and apart.max() > FAR:
        worst = table.iloc[int(apart.argmax())]
        msg = (
            f"RUN: the checkpoint of fold {worst['fold']} answers {apart.max():.2f} away from the prediction table for "
            f"{worst['path']}: the checkpoint or the image is not the one of the evaluation. Train the run again"
        )
        raise InputError(msg)
    return float(apart.max(initial=0.0))
