"""Which checkpoint may explain which image: that of the fold in which the image was held out, and no other."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from datamodules.face_crops import FaceCrops
from datamodules.manifest import Manifest
from datamodules.pixels import Fit
from datamodules.readers import ReadOptions, read
from lightning_modules.checkpoints import require_classes
from lightning_modules.device import best_device
from lightning_modules.stored import Trained, load_trained, run_checkpoint
from records.explain.methods import Network
from records.predictions import check_predictions, classes_of
from records.runs import children, find_whole_run, load_table, run_config, run_row

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
            InputError: It has other classes, or other pictures at the rows that were predicted.
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
                f"--data: {source} is not what run {self.name!r} predicted: other pictures stand at its rows. Give the "
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
        """Return the side of the pictures that a fold's network sees, and how they are made square."""
        trained = self._load(fold)[0]
        return trained.size, trained.fit

    def faces(self, fold: int) -> FaceCrops | None:
        """Return how the faces were cut out that a fold's network was trained on; None for whole images."""
        return self._load(fold)[0].faces

    def backbone(self, fold: int) -> str:
        """Return the name of a fold's backbone."""
        return str(self._load(fold)[0].model.plain["backbone"])

    def probabilities(self, images: np.ndarray, folds: np.ndarray) -> np.ndarray:
        """Return probabilities float32 (M, K) of pictures uint8 (M, H, W, 3), each by the network of its fold (M,)."""
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
            f"{worst['path']}: the checkpoint or the picture is not the one of the evaluation. Train the run again"
        )
        raise InputError(msg)
    return float(apart.max(initial=0.0))
