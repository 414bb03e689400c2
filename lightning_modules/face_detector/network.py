"""FaceDetector: network, loss and average precision, with one step for all stages."""

from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import timm
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.detection import MeanAveragePrecision

from datamodules.errors import InputError, invalid
from datamodules.faces.boxes import clip, decode, grid, overlaps, suppress
from lightning_modules.backbones import DataConfig, build_backbone
from lightning_modules.callbacks import RAW_KEY, WeightAverage
from lightning_modules.checkpoints import load_plain
from lightning_modules.face_detector.losses import STRIDES, Objective
from lightning_modules.metrics import MeanLoss
from lightning_modules.optimizers import OptimizerName, ScheduleName, build_optimizer, build_schedules


def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """Return convolution, batch normalisation and activation; the size stays."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())


class Tower(nn.Module):
    """Two convolutions that all levels share; each level has its own normalisation (as in EfficientDet's head).

    The levels differ in mean and variance. A shared normalisation is trained on each level's own batch but tested with
    one running mean of all of them: eight memorised scenes reached a mAP@.5:.95 of .52 instead of .95.
    Shape (B, C, H, W) stays.
    """

    def __init__(self, width: int, levels: int, depth: int = 2) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for _ in range(levels)) for _ in range(depth))

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Return the map of one level."""
        for layer, norms in zip(self.convs, self.norms, strict=True):
            own: Any = norms  # a list, which nn.ModuleList does not say of its members
            x = F.silu(own[level](layer(x)))
        return x


class ReceptiveField(nn.Module):
    """Receptive-field enhancement: x + mean over d of act(norm_d(conv(x, dilation d))), d = 1, 2, 3.

    The branches share one kernel (as in TridentNet, arXiv 1901.01892), so that three sizes of context share the weights
    of one. Shape (B, C, H, W) stays.
    """

    dilations = (1, 2, 3)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(width, width, 3, 3))
        nn.init.kaiming_uniform_(self.kernel, a=5**0.5)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in self.dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Return the enhanced map."""
        branches = [
            F.silu(norm(F.conv2d(x, self.kernel, padding=d, dilation=d)))
            for d, norm in zip(self.dilations, self.norms, strict=True)
        ]
        return x + sum(branches) / len(branches)


class Seam(nn.Module):
    """Separated and enhancement attention: other channels compensate for those that an occluded face lacks.

    Depth-wise convolution with a residual path, point-wise convolution, then the mean over the image through two
    layers gives a weight exp(s), s in (0, 1), of each channel: between 1 and e, so that nothing is switched off.
    Shape (B, C, H, W) stays.
    """

    def __init__(self, width: int, shrink: int = 4) -> None:
        super().__init__()
        self.depth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GELU(), nn.BatchNorm2d(width)
        )
        self.point = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))
        self.weigh = nn.Sequential(
            nn.Linear(width, max(1, width // shrink), bias=False),
            nn.ReLU(),
            nn.Linear(max(1, width // shrink), width, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the map with its channels weighted."""
        mixed = self.point(self.depth(x) + x)
        weight = torch.exp(self.weigh(mixed.mean((2, 3))))  # (B, C)
        return x * weight[:, :, None, None]


RARE = 0.01  # score of an untrained cell: nearly every cell has no face
START = 2.0  # distances of an untrained cell, in strides


def build_features(name: str, weights: str, size: int) -> tuple[nn.Module, DataConfig]:
    """Build a backbone whose forward gives a list of feature maps.

    Args:
        name: of a timm model.
        weights: "embedded", "hub", "none" or a file, as for a classifier.
        size: side of the images; only transformers need to know it.

    Raises:
        InputError: the model is unknown, gives no feature maps, or its weights cannot be loaded.
    """
    whole, _, config = build_backbone(name, weights)  # loads the weights, and raises for a wrong name
    try:
        features = _features(name, size)
    except (RuntimeError, AttributeError, TypeError, ValueError, AssertionError, KeyError) as error:
        msg = (
            f"backbone {name!r} gives no feature maps ({str(error).splitlines()[0]}): choose another, such as resnet18"
        )
        raise InputError(msg) from error
    if weights != "none":
        _carry_over(whole, features, name)
    return features, config


def _features(name: str, size: int) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, pretrained=False, img_size=size)
    except TypeError:  # convolutions take any size
        return timm.create_model(name, features_only=True, pretrained=False)


def _carry_over(whole: nn.Module, features: nn.Module, name: str) -> None:
    """Copy the weights; taking features, timm turns some dots in the names into underscores."""
    known = {key.replace(".", "_"): value for key, value in whole.state_dict().items()}
    state = {}
    for key, value in features.state_dict().items():
        flat = key.replace(".", "_").removeprefix("model_")
        if flat not in known or known[flat].shape != value.shape:
            msg = f"weights of {name!r} do not fit it as a detector's backbone ({key}): choose another, or weights none"
            raise InputError(msg)
        state[key] = known[flat]
    features.load_state_dict(state)


class FaceNet(nn.Module):
    """Normalised images (B, 3, S, S) -> raw output (B, N, 5): distances >= 0 in strides, and the score's logit.

    The cells are those of `datamodules.faces.boxes.grid`: level by level, row by row.
    """

    def __init__(self, features: nn.Module, width: int, *, enhance: bool, seam: bool) -> None:
        """Build pyramid and head.

        Args:
            features: gives feature maps; has timm's ``feature_info``.
            width: channels of pyramid and head.
            enhance: widen the receptive field of every level by dilated branches.
            seam: attention for occluded faces before the head.
        """
        super().__init__()
        self.features = features
        about: Any = features  # timm's attributes are not typed
        reductions, channels = about.feature_info.reduction(), about.feature_info.channels()
        self.chosen = [_nearest(reductions, stride) for stride in STRIDES]
        self.resized = [reductions[at] != stride for at, stride in zip(self.chosen, STRIDES, strict=True)]
        self.channels_last = str(getattr(about, "output_fmt", "NCHW")).endswith("NHWC")
        self.lateral = nn.ModuleList(nn.Conv2d(channels[at], width, 1) for at in self.chosen)
        self.smooth = nn.ModuleList(conv(width, width) for _ in STRIDES)
        self.enhance = nn.ModuleList(ReceptiveField(width) if enhance else nn.Identity() for _ in STRIDES)
        self.seam = nn.ModuleList(Seam(width) if seam else nn.Identity() for _ in STRIDES)
        self.box_tower, self.score_tower = Tower(width, len(STRIDES)), Tower(width, len(STRIDES))
        self.box, self.score = nn.Conv2d(width, 4, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(len(STRIDES)))  # one head for faces that differ in size by level
        for layer, bias in ((self.box, START), (self.score, -float(torch.tensor(1 / RARE - 1).log()))):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type] # there is a bias

    def forward(self, image: Tensor) -> Tensor:
        """Return the raw output (B, N, 5)."""
        return torch.cat([self._head(level, x) for level, x in enumerate(self.pyramid(image))], 1)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Return a feature map (B, width, S / stride, S / stride) of each level, the finest first."""
        maps = self.features(image)
        levels = []
        for at, stride, resized, lateral in zip(self.chosen, STRIDES, self.resized, self.lateral, strict=True):
            x = maps[at].permute(0, 3, 1, 2) if self.channels_last else maps[at]
            x = lateral(x)
            if resized:  # a transformer has one stride for all of its maps
                x = F.interpolate(x, size=(image.shape[-2] // stride, image.shape[-1] // stride), mode="nearest")
            levels.append(x)
        for fine in reversed(range(len(levels) - 1)):
            levels[fine] = levels[fine] + F.interpolate(levels[fine + 1], scale_factor=2.0, mode="nearest")
        parts = zip(levels, self.smooth, self.enhance, self.seam, strict=True)
        return [seam(enhance(smooth(x))) for x, smooth, enhance, seam in parts]

    def _head(self, level: int, x: Tensor) -> Tensor:
        distances = F.softplus(self.scale[level] * self.box(self.box_tower(x, level)))
        raw = torch.cat([distances, self.score(self.score_tower(x, level))], 1)  # (B, 5, rows, columns)
        return raw.flatten(2).transpose(1, 2)


def _nearest(reductions: list[int], stride: int) -> int:
    """Return the deepest map whose reduction is nearest to a stride."""
    distance = [abs(reduction - stride) for reduction in reductions]
    return max(at for at, value in enumerate(distance) if value == min(distance))


THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
_SAME = 1e-12  # differences of sums in another order


class ImageMatches(NamedTuple):
    """Detections of one image, matched to its faces; enough for the average precision of any set of images."""

    scores: np.ndarray  # (F,)
    hits: np.ndarray  # (10, F) bool: whether the box matches a face that no better box matches, at each threshold
    faces: int


def match(boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray) -> ImageMatches:
    """Match predicted boxes (F, 4), highest score first, each to the free true box (M, 4) with the best overlap."""
    order = np.argsort(-scores, kind="stable")
    common = overlaps(boxes[order], truth)  # (F, M)
    hits = np.zeros((len(THRESHOLDS), len(order)), bool)
    if len(truth):
        for at, threshold in enumerate(THRESHOLDS):
            free = np.ones(len(truth), bool)
            for place, row in enumerate(common):
                best = int(np.where(free, row, -1.0).argmax())
                if free[best] and row[best] >= threshold:
                    hits[at, place], free[best] = True, False
    return ImageMatches(scores[order], hits, len(truth))


def average_precision(images: list[ImageMatches]) -> np.ndarray:
    """Return the average precision (10,) at each overlap of THRESHOLDS; NaN where no image has a face.

    Precision at a recall is the best at that recall or beyond; it is averaged over 101 recalls from 0 to 1.
    """
    faces = sum(image.faces for image in images)
    if not faces:
        return np.full(len(THRESHOLDS), np.nan)
    order = np.argsort(-np.concatenate([image.scores for image in images]), kind="stable")
    hits = np.concatenate([image.hits for image in images], axis=1)[:, order].cumsum(1)  # (10, F)
    recall = hits / faces
    precision = hits / np.arange(1, hits.shape[1] + 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)  # beyond the highest recall
    at = np.stack([np.searchsorted(row, RECALLS, side="left") for row in recall])  # (10, 101)
    return np.take_along_axis(precision, at, axis=1).mean(1)


def intervals(images: list[ImageMatches], *, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return ``metric`` (map_50, map), ``value``, ``low``, ``high``: 95 % percentile bootstrap over images."""
    values = _pair(average_precision(images))
    drawn = np.array(list(_resampled([images], resamples, seed)))[:, 0]  # (R, 2)
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return pd.DataFrame({"metric": ["map_50", "map"], "value": values, "low": low, "high": high})


def difference(
    before: list[ImageMatches], after: list[ImageMatches], *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Return after - before as :func:`intervals` does, the same images drawn for both, in the same order.

    Raises:
        InputError: the two are not of the same images.
    """
    if [image.faces for image in before] != [image.faces for image in after]:
        msg = f"before and after must be of the same images, got {len(before)} and {len(after)} of other faces"
        raise InputError(msg)
    values = _pair(average_precision(after)) - _pair(average_precision(before))
    drawn = np.array(list(_resampled([before, after], resamples, seed)))  # (R, 2, 2)
    low, high = np.nanquantile(drawn[:, 1] - drawn[:, 0], [0.025, 0.975], axis=0)
    return pd.DataFrame({"metric": ["map_50", "map"], "value": values, "low": low, "high": high})


def permutation(
    before: list[ImageMatches], after: list[ImageMatches], *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Return two-sided p-values (2,) of map_50 and map, from random swaps of the two results of each image.

    Raises:
        InputError: the two are not of the same images.
    """
    seen = np.abs(difference(before, after, resamples=1)["value"].to_numpy())
    generator = np.random.default_rng(seed)
    at_least_as_large = np.ones(2)  # the observed assignment counts, too
    for _ in range(resamples):
        swaps = generator.random(len(before)) < 0.5
        first, second = (
            [pair[int(swap) ^ side] for pair, swap in zip(zip(before, after, strict=True), swaps, strict=True)]
            for side in (0, 1)
        )
        drawn = _pair(average_precision(second)) - _pair(average_precision(first))
        at_least_as_large += np.abs(drawn) >= seen - _SAME
    return at_least_as_large / (resamples + 1)


def _pair(precisions: np.ndarray) -> np.ndarray:
    return np.array([precisions[0], precisions.mean()])


def _resampled(sets: list[list[ImageMatches]], resamples: int, seed: int) -> Iterator[list[np.ndarray]]:
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        rows = generator.integers(len(sets[0]), size=len(sets[0]))
        yield [_pair(average_precision([images[row] for row in rows])) for images in sets]


CONFIG_KEY = "face_detector"  # where a checkpoint keeps what is needed to rebuild the model
MONITOR = "val/map_50"
LOWEST, OVERLAP, MOST = 0.01, 0.5, 100  # of a box that counts: its score, overlap with a better one, boxes an image

Batch = dict[str, Any]


class FaceDetector(pl.LightningModule):
    """Face detector for uint8 images (B, 3, S, S): one class, one stage, no anchors.

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
            size: side of the images it is trained on, a multiple of 32.
            width: channels of pyramid and head.
            enhance: whether dilated branches widen the receptive field.
            seam: whether a separated and enhancement attention module (SEAM) helps with occluded faces.
            nwd: share of the normalised Wasserstein distance in the box loss of small faces, 0 for none.
            repulsion: weight of the loss that keeps boxes of neighbours apart, 0 for none.
            optimizer: "adam", "adamw" or "sgd".
            learning_rate: the highest learning rate of the run.
            weight_decay: weight decay of all parameters except biases and normalisation layers.
            schedule: learning-rate schedule: "constant", "one_cycle", "cosine" or "plateau" (halved after 3 epochs
                without a better map_50, which is mAP@.5).
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
        """Rebuild a trained detector without network or code from the file; training options may be given.

        Raises:
            InputError: If the file cannot be read safely, was not written by this project, or an option differs.
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
        """Build the network, and store the normalisation and the cells."""
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
        """Create one average precision and one mean loss for each stage."""
        # torchmetrics' own thresholds are in single precision, where .30000001 differs from a recall of 3 of 10
        exact: Any = {"iou_thresholds": THRESHOLDS.tolist(), "rec_thresholds": RECALLS.tolist()}
        self.val_map = MeanAveragePrecision(backend="pycocotools", **exact)
        self.test_map = MeanAveragePrecision(backend="pycocotools", **exact)
        self.val_loss, self.test_loss = MeanLoss(), MeanLoss()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its schedules."""
        optimizer = build_optimizer(self.optimizer_name, self.parameters(), self.learning_rate, self.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        schedules: Any = build_schedules(
            self.schedule, optimizer, self.learning_rate, steps, self.warmup, monitor=MONITOR
        )
        return [optimizer], schedules

    def forward(self, image: Tensor) -> Tensor:
        """Return the raw output (B, N, 5) of images in 0..255; see `datamodules.faces.boxes`."""
        return self.network((image.to(self.mean.dtype) - self.mean) / self.std)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        parts = self.objective(self(batch["image"]), batch["boxes"], self.centres, self.scales)
        shown = {f"train/{name}": value.detach() for name, value in parts.items()}
        self.log_dict(shown, on_step=False, on_epoch=True, batch_size=len(batch["row"]))
        return parts["loss"]

    def decode(self, raw: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """Decode raw output (B, N, 5): boxes (F, 4) within the image and scores (F,) of each image, best first."""
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
        detections = self.decode(raw)
        predicted = [
            {"boxes": torch.from_numpy(box), "scores": torch.from_numpy(score), "labels": torch.zeros(len(box)).long()}
            for box, score in detections
        ]
        truth = [{"boxes": box.cpu(), "labels": torch.zeros(len(box)).long()} for box in batch["boxes"]]
        getattr(self, f"{stage}_map").update(predicted, truth)
        return detections

    def _report(self, stage: Literal["val", "test"]) -> None:
        precision, loss = getattr(self, f"{stage}_map"), getattr(self, f"{stage}_loss")
        values = precision.compute()
        for name in ("map_50", "map", "mar_100"):
            # -1 is COCO's value if there is no face
            value = values[name].float() if values[name] >= 0 else torch.tensor(torch.nan)
            self.log(f"{stage}/{name}", value, prog_bar=name != "mar_100")
        self.log(f"{stage}/loss", loss.compute().float())
        precision.reset()
        loss.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Count a batch of the val part."""
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch."""
        self._report("val")

    def on_test_epoch_start(self) -> None:
        """Clear the detections of an earlier test."""
        self.detections = {}

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Count a batch of the test part and store its detections."""
        self.detections.update(zip(batch["row"].tolist(), self._evaluate(batch, "test"), strict=True))

    def on_test_epoch_end(self) -> None:
        """Log the epoch."""
        self._report("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the model; the weights are the moving average if there is one."""
        checkpoint[CONFIG_KEY] = self.plain
        if self.average is not None:
            self.average.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise for a checkpoint of another model before its tensors are loaded.

        Raises:
            InputError: It is not of this network.
        """
        if checkpoint.get(CONFIG_KEY) != self.plain:
            msg = f"the checkpoint is of {checkpoint.get(CONFIG_KEY, 'no face detector')}, this run has {self.plain}"
            raise InputError(msg)
        if RAW_KEY in checkpoint and self.average is not None:
            # training continues: load the raw weights instead of the average
            self.average.load(checkpoint)
            checkpoint["state_dict"] = checkpoint[RAW_KEY]


def read_detector(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint that a detector's run wrote.

    Raises:
        InputError: If it cannot be opened safely, or is of another model.
    """
    content = load_plain(path)
    if not isinstance(content, dict) or CONFIG_KEY not in content or "state_dict" not in content:
        kind = "a classifier, not of a face detector" if isinstance(content, dict) and "classifier" in content else ""
        msg = f"{path} is a checkpoint of {kind or 'something else'}: give the .ckpt that `emotion detector fit` wrote"
        raise InputError(msg)
    return content
