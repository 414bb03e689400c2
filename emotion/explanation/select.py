"""Choice of the held-out images to explain, their landmarks, and the networks of the folds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from datamodules.errors import InputError, did_you_mean, invalid
from datamodules.faces.crop import choose
from datamodules.faces.detectors import LANDMARKS, Detector
from datamodules.files.images import Fit, fit_to_square
from datamodules.manifest import Manifest
from datamodules.readers.subsets import sources
from datamodules.synthetic import draw, parse_spec
from emotion.explanation.methods import Network
from lightning_modules.checkpoints import require_classes
from lightning_modules.predictor import Predictor, TorchMember
from results.bias.groups import Grouping
from results.predictions import check_predictions, classes_of
from results.run_images import DataOptions, is_evaluation, require_rows
from results.tracking.runs import MODEL_RUNS, children, find_whole_run, load_table, run_checkpoint, run_row

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
    """Choose up to `number` images of each class (and group) at random, of different clusters first.

    Args:
        predictions: The prediction table.
        classes: All classes, also those without images.
        number: Maximum number of images of a cell.
        by: Groupings; an image may be in one cell of each.
        answers: Choose images that were predicted correctly, wrongly, or any.
        seed: Seed of the choice.

    Returns:
        Their positions in the table, ascending; and one row per cell: by, group, class, chosen, eligible, images.

    Raises:
        InputError: There is no such image.
    """
    if number < 1:
        msg = f"--images: must be at least 1, got {number}"
        raise InputError(msg)
    label = predictions["label"].to_numpy(object)
    right = label == predictions["predicted"].to_numpy(object)
    eligible = {"correct": right, "wrong": ~right, "any": np.ones(len(right), bool)}[answers]
    shuffled = np.random.default_rng(seed).permutation(len(predictions))
    chosen = np.zeros(len(predictions), bool)
    cells: list[tuple[str, str, str, np.ndarray]] = []
    everybody = ("", np.full(len(predictions), "", object), ("",))
    for name, group, groups in [(grouping.name, grouping.of(predictions), grouping.groups) for grouping in by] or [
        everybody
    ]:
        for value in groups:
            for label_name in classes:
                in_cell = (label == label_name) & (group == value)
                candidates = shuffled[(in_cell & eligible & ~chosen)[shuffled]]
                missing = max(0, number - int((chosen & in_cell).sum()))  # some were chosen for another grouping
                chosen[_different_first(candidates, predictions["cluster"].to_numpy())[:missing]] = True
                cells.append((name, value, label_name, in_cell))
    if not chosen.any():
        msg = (
            f"--answers: no image to explain, none of the {len(predictions)} held-out images was predicted "
            f"{ {'correct': 'correctly', 'wrong': 'wrongly', 'any': 'at all'}[answers] }; use --answers any"
        )
        raise InputError(msg)
    counts = [
        {
            "by": name,
            "group": value,
            "class": label_name,
            "chosen": int((chosen & in_cell).sum()),
            "eligible": int((eligible & in_cell).sum()),
            "images": int(in_cell.sum()),
        }
        for name, value, label_name, in_cell in cells
    ]
    return np.flatnonzero(chosen), pd.DataFrame(counts)


def _different_first(rows: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return rows in an order in which the first of every cluster comes before the second of any."""
    turn = pd.Series(clusters[rows]).groupby(clusters[rows]).cumcount().to_numpy()
    return rows[np.argsort(turn, kind="stable")]


def cell_lines(cells: pd.DataFrame, predictions: pd.DataFrame, number: int, answers: Answers) -> list[str]:
    """Return sentences on cells with fewer images than requested, and on classes that were never predicted."""
    state = {"correct": "predicted correctly", "wrong": "predicted wrongly", "any": "held out"}[answers]
    lines = []
    for row in cells[cells["chosen"] < number].to_dict("records"):
        group = f" / {row['group']}" if row["group"] else ""
        lines.append(
            f"{row['class']}{group}: only {row['chosen']} of {number} images, since {row['eligible']} of its "
            f"{row['images']} images are {state}"
        )
    never = sorted(set(cells["class"]) - set(predictions["predicted"]))
    lines += [f"{name} was never predicted" for name in never]
    return lines


def positions_of_rows(predictions: pd.DataFrame, split: pd.DataFrame | None, rows: Sequence[int]) -> np.ndarray:
    """Return the positions in the table of rows of the data.

    Raises:
        InputError: No fold held a row out.
    """
    place = pd.Series(np.arange(len(predictions)), index=predictions["row"])
    for row in rows:
        if row not in place.index:
            role = ""
            if split is not None and (split["row"] == row).any():
                used = split[split["row"] == row].iloc[0]
                role = f" (it is in the {used['role']} part of fold {used['fold']})"
            msg = (
                f"--rows: must be rows that a fold held out, got {row}{role}; the run held out {len(place)} rows, "
                f"such as {', '.join(map(str, place.index[:5]))}"
            )
            raise InputError(msg)
    return place[list(dict.fromkeys(rows))].to_numpy()


def targets_of(table: pd.DataFrame, classes: Sequence[str], target: str) -> np.ndarray:
    """Return the index of the class to explain in each image, int64 (N,).

    Args:
        table: With columns label and predicted.
        classes: Names of the classes.
        target: ``predicted``, ``label`` (predicted if the label is unknown), or the name of a class.

    Raises:
        InputError: There is no such class; the message suggests the nearest.
    """
    names = pd.Index(classes)
    if target in ("predicted", "label"):
        column = table["predicted"]
        if target == "label":
            column = table["label"].where(table["label"].isin(names), column)
        return names.get_indexer(pd.Index(column)).astype(np.int64)
    if target not in names:
        hint = did_you_mean(target, [*classes, "predicted", "label"], cutoff=0.4)
        raise invalid("--target", f"must be predicted, label or a class ({', '.join(classes)})", target, hint)
    return np.full(len(table), names.get_loc(target), np.int64)


MOVING_PARTS = ("eyes", "brows", "nose", "mouth")
"""Parts that move when a drawn face shows an emotion."""

_COLUMNS = [
    f"{name}_{axis}" for name in LANDMARKS for axis in "xy"
]  # left as seen in the image, so the person's right eye


def onto_square(points: np.ndarray, height: int, width: int, size: int, fit: Fit) -> np.ndarray:
    """Return the positions of image points after `fit_to_square`.

    Args:
        points: x and y in the image, from the corner of the first pixel, float (..., 2).
        height: Height of the image.
        width: Width of the image.
        size: Side of the square.
        fit: As in `fit_to_square`.
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
    """Return the landmarks in the data's own table of faces, float32 (N, 5, 2); NaN if it has none.

    Args:
        manifest: The data.
        rows: Rows of the images.
        shapes: Height and width of each image.
        size: Side of the network's input.
        fit: How an image is made square.
    """
    landmarks = np.full((len(rows), len(LANDMARKS), 2), np.nan, np.float32)
    boxes = manifest.boxes
    if boxes is None or not set(_COLUMNS) <= set(boxes):
        return landmarks
    if "chosen" in boxes:
        boxes = boxes[pd.to_numeric(boxes["chosen"]) == 1]
    boxes = boxes.drop_duplicates("path", keep=False).set_index(
        "path"
    )  # with several faces it is unknown which one is meant
    points = boxes[_COLUMNS].apply(pd.to_numeric, errors="coerce").reindex(manifest.table["path"].iloc[rows])
    for number, (row, (height, width)) in enumerate(zip(points.to_numpy(np.float64), shapes, strict=True)):
        landmarks[number] = onto_square(row.reshape(-1, 2), height, width, size, fit)
    return landmarks


def found_landmarks(detector: Detector, image: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """Return the landmarks of the largest face in the network's input, float32 (5, 2); NaN without a face."""
    faces = detector.detect([image])[0]
    height, width = image.shape[:2]
    number = choose(faces, height, width)
    if number is None:
        return np.full((len(LANDMARKS), 2), np.nan, np.float32)
    return onto_square(faces.landmarks[number].astype(np.float64), height, width, size, fit).astype(np.float32)


def emotion_masks(source: str, manifest: Manifest, rows: np.ndarray, size: int, fit: Fit) -> np.ndarray | None:
    """Return the pixels that show the emotion in drawn faces, bool (N, size, size); None for other data.

    Args:
        source: Source of the data.
        manifest: The data.
        rows: Rows of the images.
        size: Side of the network's input.
        fit: How an image is made square.
    """
    if len(sources(source)) > 1 or (source != "drawn" and not source.startswith("drawn:")):
        return None
    spec = parse_spec(source)
    masks = np.zeros((len(rows), size, size), bool)
    for number, path in enumerate(manifest.table["path"].iloc[rows]):
        drawn = draw(spec, int(Path(path).stem)).masks  # the number is in the file name, since a set may leave rows out
        whole = np.logical_or.reduce([drawn[name] for name in MOVING_PARTS])
        masks[number] = fit_to_square(np.repeat(whole[..., None], 3, 2).astype(np.uint8) * 255, size, fit)[..., 0] > 127
    return masks


NOTED_DIFFERENCE = 0.01  # of probabilities; smaller ones come from other processors and precisions
REFUSED_DIFFERENCE = 0.1


@dataclass(frozen=True)
class HeldOutPredictions:
    """A run's predictions of held-out images, and the run of each fold.

    Attributes:
        run_id: The run, the parent of a cross-validation, or an evaluation.
        name: Its name.
        predictions: Its prediction table.
        members: Run id of each fold, whose checkpoint was not trained on the held-out images of that fold; of an
            evaluation, the run that was evaluated.
        data: How its data was read.
        evaluation: Whether it is an evaluation, whose images were prepared as `emotion predict` does it.
    """

    run_id: str
    name: str
    predictions: pd.DataFrame
    members: dict[int, str]
    data: DataOptions
    evaluation: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by index."""
        return classes_of(self.predictions)

    @classmethod
    def of(cls, run: str) -> "HeldOutPredictions":
        """Read them from a run, given by its id or the start of it, its name, or latest.

        Raises:
            InputError: The run has no prediction table, or is an evaluation of several networks.
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
                f"RUN: {info['name']!r} ({info['status']}) has no prediction table, so held-out images are unknown. "
                "Choose a finished `emotion fit` or `emotion cross-validate`."
            )
            raise InputError(msg + (names if len(below) else "")) from error
        check_predictions(predictions)
        if is_evaluation(run_id):
            members = {0: _evaluated_run(info)}
            return cls(run_id, str(info["name"]), predictions, members, DataOptions.of(run_id), evaluation=True)
        folds_of_table = sorted(int(fold) for fold in predictions["fold"].unique())
        try:
            folds = load_table(run_id, "folds")
        except InputError:
            folds = None
        if folds is None:
            members = dict.fromkeys(folds_of_table, run_id)
        else:  # of a cross-validation; the predictions are those of its first seed
            first = folds[folds["seed"] == folds["seed"].iloc[0]]
            members = {int(fold): str(member) for fold, member in zip(first["fold"], first["run_id"], strict=True)}
        missing = [fold for fold in folds_of_table if fold not in members]
        if missing or (folds is None and len(folds_of_table) > 1):
            msg = f"RUN: the runs of the folds {folds_of_table} of {run_id} are not known; run it again"
            raise InputError(msg)
        return cls(run_id, str(info["name"]), predictions, members, DataOptions.of(members[min(members)]))

    @property
    def pixel_limit(self) -> int | None:
        """Largest number of pixels of an image file in the training; None: the default."""
        return self.data.pixel_limit

    def manifest(self, data: str | None = None) -> tuple[Manifest, str]:
        """Read the data of the run, or the same data from another place; return it and its source.

        Raises:
            InputError: The data has other classes, or other images in the predicted rows.
        """
        used = self.data if data is None else replace(self.data, source=data)
        manifest = used.manifest()
        if not self.evaluation:  # of whose data images of other classes were left out
            require_classes(list(self.classes), list(manifest.classes), f"run {self.name!r}")
        require_rows(manifest, self.predictions, self.name, used.source)
        return manifest, used.source


def _evaluated_run(info: Mapping[str, Any]) -> str:
    """Return the run whose model an evaluation scored.

    Raises:
        InputError: It scored a file, or the mean of several networks.
    """
    model, runs = str(info.get("tags.model")), str(info.get(f"tags.{MODEL_RUNS}") or "")
    if not runs or runs == "nan":
        msg = f"RUN: {info['name']!r} is an evaluation of {model}, which is not a run here, so its network is not known"
        raise InputError(f"{msg}; evaluate the run that trained it, and explain that evaluation")
    chosen = runs.split(",")
    below = children(chosen[0]) if len(chosen) == 1 else pd.DataFrame()
    if len(chosen) > 1 or len(below):
        single = (below["run_id"].tolist() if len(below) else chosen)[0]
        msg = (
            f"RUN: {info['name']!r} is an evaluation of several networks, whose mean cannot be explained; evaluate one "
            f"of them, such as `emotion evaluate {single[:8]} --data ...`, and explain that evaluation"
        )
        raise InputError(msg)
    return chosen[0]


class FoldNetworks:
    """Networks of the folds of a run, each loaded on first use."""

    def __init__(self, held_out: HeldOutPredictions) -> None:
        self.held_out = held_out
        self._loaded: dict[int, tuple[TorchMember, Network]] = {}

    def __getitem__(self, fold: int) -> Network:
        """Return the network that was not trained on the held-out images of a fold."""
        return self._load(fold)[1]

    def _load(self, fold: int) -> tuple[TorchMember, Network]:
        if fold not in self._loaded:
            run = self.held_out.members.get(fold)
            if run is None:
                folds = ", ".join(map(str, sorted(self.held_out.members)))
                raise invalid("--fold", f"must be a fold of the run ({folds})", fold)
            try:
                path = run_checkpoint(run)
            except InputError as error:
                msg = (
                    f"RUN: fold {fold} (run {run[:8]}) has no checkpoint, which is needed to explain its held-out "
                    f"images. Train it again: emotion reproduce {self.held_out.run_id[:8]}"
                )
                raise InputError(msg) from error
            member = TorchMember(path)
            if self.held_out.evaluation and list(member.classes) != list(self.held_out.classes):
                msg = (
                    f"RUN: {self.held_out.name!r} scored the classes {', '.join(self.held_out.classes)}, and "
                    f"its model knows {', '.join(member.classes)}; only an evaluation of all classes of a model can be "
                    "explained"
                )
                raise InputError(msg)
            require_classes(member.classes, list(self.held_out.classes), f"the checkpoint of fold {fold}")
            self._loaded[fold] = member, Network(member.model, member.model.probabilities, member.model.backbone)
        return self._loaded[fold]

    def pixels(self, fold: int) -> tuple[int, Fit]:
        """Return the side of the input of a fold's network, and how images are made square."""
        member = self._load(fold)[0]
        return member.size, member.fit

    def predictor(self, fold: int, faces: str | None = None) -> Predictor:
        """Return the predictor of a fold's network alone; ``faces`` as there."""
        return Predictor([self._load(fold)[0]], f"fold {fold} of run {self.held_out.name!r}", faces=faces)

    def backbone(self, fold: int) -> str:
        """Return the name of a fold's backbone."""
        return self._load(fold)[0].backbone

    def probabilities(self, images: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """Return probabilities float32 (M, K) of images uint8 (M, H, W, 3), each by the network of its fold (M,)."""
        result = np.empty((len(images), len(self.held_out.classes)), np.float32)
        for fold in np.unique(folds):
            result[folds == fold] = self[int(fold)].scores(images[folds == fold])
        return result


def check_same_network(table: pd.DataFrame, classes: tuple[str, ...], probabilities: np.ndarray) -> float:
    """Compare the probabilities of a network with those of the prediction table; return the largest difference.

    Raises:
        InputError: The difference is no rounding error, so the checkpoint or the images are others.
    """
    stored = table[[f"prob_{name}" for name in classes]].to_numpy(np.float64)
    differences = np.abs(stored - probabilities).max(axis=1)
    if len(differences) and differences.max() > REFUSED_DIFFERENCE:
        worst = table.iloc[int(differences.argmax())]
        msg = (
            f"RUN: the checkpoint of fold {worst['fold']} differs by {differences.max():.2f} from the prediction table "
            f"for {worst['path']}, so the checkpoint or the image is not the one of the evaluation; train the run again"
        )
        raise InputError(msg)
    return float(differences.max(initial=0.0))
