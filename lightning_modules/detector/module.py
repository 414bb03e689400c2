"""The face detector that is trained: network, objective and average precision, with one step for all stages."""

from math import inf
from pathlib import Path
from typing import Any, Literal, Self

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from datamodules.errors import InputError, invalid
from datamodules.faces.boxes import clip, decode, grid, suppress
from lightning_modules.averaging import RAW_KEY, WeightAverage
from lightning_modules.checkpoints import load_plain
from lightning_modules.detector.assignment import STRIDES
from lightning_modules.detector.objective import Objective
from lightning_modules.detector.precision import RECALLS, THRESHOLDS
from lightning_modules.detector.pyramid import FaceNet, build_features
from lightning_modules.metrics import MeanLoss
from lightning_modules.optimizers import OptimizerName, ScheduleName, build_optimizer, build_schedules

CONFIG_KEY = "face_detector"  # where a checkpoint keeps what is needed to rebuild the model
MONITOR = "val/map_50"
LOWEST, OVERLAP, MOST = 0.01, 0.5, 100  # of a box that counts: its score, overlap with a better one, boxes a picture

Batch = dict[str, Any]


class FaceDetector(pl.LightningModule):
    """Finds faces in uint8 pictures (B, 3, S, S): one class, one stage, no anchors.

    Notes:
        A batch is a dictionary: "image" uint8 (B, 3, S, S), "boxes", a list of B tensors (M_i, 4), and "row" (B,).

        Average precision is torchmetrics' (COCO's): ``map_50`` at an overlap of .5, ``map`` the mean over .5, .55,
        ... .95. Boxes are kept down to a score of .01, since it is a curve over all scores.
    """

    def __init__(
        self,
        backbone: str = "tf_efficientnet_lite0",
        weights: str = "embedded",
        size: int = 192,
        width: int = 64,
        enhance: bool = True,
        seam: bool = True,
        nwd: float = 0.5,
        repulsion: float = 0.1,
        optimizer: OptimizerName = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        schedule: ScheduleName = "one_cycle",
        warmup: float = 0.1,
    ) -> None:
        """Build the model.

        Args:
            backbone: name of a timm model that gives feature maps.
            weights: "embedded" (an installed package), "hub", "none", or a .safetensors/.pth file.
            size: side of the pictures it is trained on, a multiple of 32.
            width: channels of pyramid and head.
            enhance: dilated branches that widen the receptive field.
            seam: attention for occluded faces.
            nwd: share of the normalised Wasserstein distance in the box loss of small faces, 0 for none.
            repulsion: weight of the loss that keeps boxes of neighbours apart, 0 for none.
            optimizer: "adam", "adamw" or "sgd".
            learning_rate: the highest of the run.
            weight_decay: of everything but biases and normalisation layers.
            schedule: "constant", "one_cycle", "cosine" or "plateau" (halved after 3 epochs without a better map_50).
            warmup: share of all steps in which the learning rate rises, in [0, 1).

        Raises:
            InputError: If an option is out of range.
        """
        super().__init__()
        if size < STRIDES[-1] or size % STRIDES[-1]:
            raise invalid("--data.size", f"must be a multiple of {STRIDES[-1]}", size)
        if width < 4:
            raise invalid("--model.width", "must be at least 4 channels", width, "64 is usual")
        if not 0 <= warmup < 1:
            raise invalid("--model.warmup", "must be at least 0 and below 1", warmup)
        if not 0 < learning_rate < inf:
            raise invalid("--model.learning_rate", "must be above 0 and finite", learning_rate)
        if not 0 <= weight_decay < inf:
            raise invalid("--model.weight_decay", "must be at least 0 and finite", weight_decay)
        self.plain: dict[str, Any] = {
            "backbone": backbone, "size": size, "width": width, "enhance": enhance, "seam": seam,
        }  # fmt: skip
        self.objective = Objective(nwd, repulsion)
        self.optimizer_name, self.schedule, self.warmup = optimizer, schedule, warmup
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.configure_network(backbone, weights)
        self.configure_metrics()
        self.average: WeightAverage | None = None  # set by the callback AverageWeights while it trains
        self.detections: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # row -> boxes, scores of the last test

    @classmethod
    def from_checkpoint(cls, path: Path | str, **training: Any) -> Self:  # noqa: ANN401 - options of __init__
        """Rebuild a trained detector without network or code from the file; to train it on, give training options.

        Raises:
            InputError: If the file cannot be read safely, is none of ours, or an option is of another network.
        """
        content = read_detector(path)
        plain = content[CONFIG_KEY]
        wrong = [name for name in plain if name in training and training[name] != plain[name]]
        if wrong:
            name = wrong[0]
            msg = f"the checkpoint {path} has {name} {plain[name]!r}, this run {training[name]!r}: leave {name} out"
            raise InputError(msg)
        model = cls(**{**training, **plain, "weights": "none"})
        try:
            model.load_state_dict(content["state_dict"])
        except RuntimeError as error:
            msg = f"{path} is damaged: its tensors are not those of {plain['backbone']} ({str(error).splitlines()[0]})"
            raise InputError(msg) from error
        return model.eval()

    def configure_network(self, backbone: str, weights: str) -> None:
        """Build the network, and keep the normalisation and the cells."""
        size, width = self.plain["size"], self.plain["width"]
        features, config = build_features(backbone, weights, size)
        self.network = FaceNet(features, width, enhance=self.plain["enhance"], seam=self.plain["seam"])
        self.network.to(memory_format=torch.channels_last)
        self.mean: Tensor
        self.std: Tensor
        self.centres: Tensor
        self.scales: Tensor
        constants = {
            "mean": 255 * torch.tensor(config.mean).view(1, 3, 1, 1),
            "std": 255 * torch.tensor(config.std).view(1, 3, 1, 1),
            **dict(zip(("centres", "scales"), map(torch.from_numpy, grid(size, size, STRIDES)), strict=True)),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def configure_metrics(self) -> None:
        """Make one average precision and one mean loss for each stage."""
        # torchmetrics' own thresholds are in single precision: .30000001 is another recall than 3 of 10
        exact: Any = {"iou_thresholds": THRESHOLDS.tolist(), "rec_thresholds": RECALLS.tolist()}
        self.val_map = MeanAveragePrecision(backend="pycocotools", **exact)
        self.test_map = MeanAveragePrecision(backend="pycocotools", **exact)
        self.val_loss, self.test_loss = MeanLoss(), MeanLoss()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Give Lightning the optimizer and its schedules."""
        optimizer = build_optimizer(self.optimizer_name, self.parameters(), self.learning_rate, self.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        schedules: Any = build_schedules(
            self.schedule, optimizer, self.learning_rate, steps, self.warmup, monitor=MONITOR
        )
        return [optimizer], schedules

    def forward(self, image: Tensor) -> Tensor:
        """Return the raw output (B, N, 5) of pictures in 0..255; see `datamodules.faces.boxes`."""
        return self.network((image.to(self.mean.dtype) - self.mean) / self.std)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        parts = self.objective(self(batch["image"]), batch["boxes"], self.centres, self.scales)
        shown = {f"train/{name}": value.detach() for name, value in parts.items()}
        self.log_dict(shown, on_step=False, on_epoch=True, batch_size=len(batch["row"]))
        return parts["loss"]

    def found(self, raw: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return boxes (F, 4) within the picture and scores (F,) of each picture, best first."""
        scores = raw[..., 4].float().sigmoid().cpu().numpy()
        boxes = decode(raw[..., :4].float(), self.centres, self.scales).cpu().numpy()
        result = []
        for box, score in zip(boxes, scores, strict=True):
            sure = np.flatnonzero(score >= LOWEST)
            kept = sure[suppress(box[sure], score[sure], OVERLAP)[:MOST]]
            result.append((clip(box[kept], self.plain["size"], self.plain["size"]), score[kept]))
        return result

    def _evaluate(self, batch: Batch, stage: Literal["val", "test"]) -> list[tuple[np.ndarray, np.ndarray]]:
        raw = self(batch["image"])
        loss = self.objective(raw, batch["boxes"], self.centres, self.scales)["loss"]
        count = raw.new_tensor(float(len(batch["row"])))
        getattr(self, f"{stage}_loss").update((loss * count)[None], count[None])
        found = self.found(raw)
        predicted = [
            {"boxes": torch.from_numpy(box), "scores": torch.from_numpy(score), "labels": torch.zeros(len(box)).long()}
            for box, score in found
        ]
        truth = [{"boxes": box.cpu(), "labels": torch.zeros(len(box)).long()} for box in batch["boxes"]]
        getattr(self, f"{stage}_map").update(predicted, truth)
        return found

    def _report(self, stage: Literal["val", "test"]) -> None:
        precision, loss = getattr(self, f"{stage}_map"), getattr(self, f"{stage}_loss")
        values = precision.compute()
        for name in ("map_50", "map", "mar_100"):
            # -1 is COCO's word for no face to find
            value = values[name].float() if values[name] >= 0 else torch.tensor(torch.nan)
            self.log(f"{stage}/{name}", value, prog_bar=name != "mar_100")
        self.log(f"{stage}/loss", loss.compute().float())
        precision.reset()
        loss.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Count a batch of the inner part."""
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch."""
        self._report("val")

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self.detections = {}

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Count a batch of the outer part and keep what was found."""
        self.detections.update(zip(batch["row"].tolist(), self._evaluate(batch, "test"), strict=True))

    def on_test_epoch_end(self) -> None:
        """Log the epoch."""
        self._report("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the model, whose weights are the average where one is kept."""
        checkpoint[CONFIG_KEY] = self.plain
        if self.average is not None:
            self.average.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of something else before its tensors are tried.

        Raises:
            InputError: so.
        """
        if checkpoint.get(CONFIG_KEY) != self.plain:
            msg = f"the checkpoint is of {checkpoint.get(CONFIG_KEY, 'no face detector')}, this run has {self.plain}"
            raise InputError(msg)
        if RAW_KEY in checkpoint and self.average is not None:
            # going on with training: the weights behind the average become the weights again
            self.average.load(checkpoint)
            checkpoint["state_dict"] = checkpoint[RAW_KEY]


def read_detector(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint that a detector's run left.

    Raises:
        InputError: If it cannot be opened safely, or is of something else.
    """
    content = load_plain(path)
    if not isinstance(content, dict) or CONFIG_KEY not in content or "state_dict" not in content:
        kind = "a classifier, not of a face detector" if isinstance(content, dict) and "classifier" in content else ""
        msg = f"{path} is a checkpoint of {kind or 'something else'}: give the .ckpt that `emotion detector fit` left"
        raise InputError(msg)
    return content
