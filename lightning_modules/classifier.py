"""EmotionClassifier: a backbone, a head and a loss, with one step shared by training and evaluation."""

import math
import os
from math import inf
from pathlib import Path
from typing import Any, Literal, Self

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.data.mixup import Mixup
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.utilities.distributed import gather_all_tensors

from datamodules.errors import InputError, invalid
from lightning_modules.backbones import HeadName, build_backbone, build_head, head_options, require_backbone, used_alone
from lightning_modules.callbacks import RAW_KEY, WeightAverage
from lightning_modules.checkpoints import CONFIG_KEY, read_checkpoint, require_classes
from lightning_modules.losses import CrossEntropy, EmotionLoss, soft_targets_refused
from lightning_modules.metrics import MeanLoss, metric_collection
from lightning_modules.optimizers import (
    OptimizerName,
    ScheduleName,
    build_optimizer,
    build_schedules,
    layered_groups,
)
from results.tracking.store import FORMAT


class Mixing:
    """Mixup or cutmix of each batch with itself in reverse order; each batch draws one strength."""

    def __init__(self, mixup: float, cutmix: float) -> None:
        """Store the strengths.

        Args:
            mixup: alpha of the beta distribution, 0 for none.
            cutmix: the same for cutmix; if both are given, each batch draws one of them.

        Raises:
            InputError: If one is below 0.
        """
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= alpha < inf:
                raise invalid(f"--model.{name}", "must be at least 0 and finite", alpha)
        self.mixup, self.cutmix = mixup, cutmix

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __call__(self, images: Tensor, target: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix float images (B, C, H, W) in place and return them with their soft targets (B, classes).

        Args:
            images: the batch.
            target: float (B, classes).
            seed: seed of this batch, so that a resumed run mixes like an uninterrupted one.
        """
        even = len(images) // 2 * 2  # timm needs pairs: the last image of an odd batch is not mixed
        if even == 0:
            return images, target
        mixer = Mixup(self.mixup, self.cutmix, label_smoothing=0.0, num_classes=even)
        before = np.random.get_state()  # timm draws from NumPy's global generator
        np.random.seed(seed % 2**32)
        try:
            # mixing row numbers gives the matrix of shares, which mixes hard and soft targets alike
            _, shares = mixer(images[:even], torch.arange(even, device=images.device))
        finally:
            np.random.set_state(before)
        mixed = shares.to(target.dtype) @ target[:even]
        return images, torch.cat([mixed, target[even:]])


GROWING = 2 / 3  # share of the epochs in which progressive images grow; the others have the full size
LARGEST_SHIFT = 0.25


def progressive_side(epoch: int, epochs: int, first: int, last: int) -> int:
    """Return the side in pixels of the training images of an epoch: from ``first`` in equal steps up to ``last``.

    The last third of the epochs has the full size. The side depends on the epoch alone, so a resumed run continues with
    the sides of an uninterrupted one (Tan and Le 2021, arXiv:2104.00298).

    Args:
        epoch: number of the epoch, from 0.
        epochs: number of epochs of the run.
        first: side in the first epoch.
        last: full side.
    """
    growing = math.ceil(GROWING * epochs)
    return last if epoch >= growing else round(first + (last - first) * epoch / growing)


def shifted_views(image: Tensor, shift: int) -> list[Tensor]:
    """Return five views of images (B, C, H, W): as they are, and moved by ``shift`` pixels right, left, down and up.

    What is moved in at a border is its reflection.
    """
    if not shift:
        return [image]
    height, width = image.shape[-2:]
    padded = F.pad(image, (shift, shift, shift, shift), mode="reflect")
    places = [(shift, shift), (shift, 0), (shift, 2 * shift), (0, shift), (2 * shift, shift)]
    return [padded[..., top : top + height, left : left + width] for top, left in places]


Batch = dict[str, Tensor]


def check_model(
    *, backbone: str, learning_rate: float, weight_decay: float, freeze: str, thaw_after_epochs: int | None,
    mixup: float, cutmix: float, layer_decay: float = 1.0, unmixed_epochs: int = 0, progressive_from: int | None = None,
    shift_at_test: float = 0.0, sam_radius: float = 0.0, **shares: float,
) -> None:  # fmt: skip
    """Check the options of the model that need no data, before any data is read.

    Raises:
        InputError: One is out of range, would have no effect, or there is no such backbone.
    """
    require_backbone(backbone)
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise invalid(f"--model.{name}", "must be at least 0 and below 1", value)
    if not 0 < learning_rate < inf:
        raise invalid("--model.learning_rate", "must be above 0 and finite", learning_rate)
    if not 0 <= weight_decay < inf:
        raise invalid("--model.weight_decay", "must be at least 0 and finite", weight_decay)
    if thaw_after_epochs is not None and thaw_after_epochs < 1:
        raise invalid("--model.thaw_after_epochs", "must be at least 1", thaw_after_epochs)
    if thaw_after_epochs is not None and freeze == "none":
        raise invalid("--model.thaw_after_epochs", "needs --model.freeze all", thaw_after_epochs)
    if not 0 < layer_decay <= 1:
        raise invalid("--model.layer_decay", "must be above 0 and at most 1", layer_decay, "0.75 to 0.95 is usual")
    if not 0 <= sam_radius < inf:
        raise invalid("--model.sam_radius", "must be at least 0 and finite", sam_radius, "0.05 is usual")
    if layer_decay != 1 and freeze != "none":
        rule = "must be 1 with --model.freeze all"
        raise invalid("--model.layer_decay", rule, layer_decay, "leave one of them out")
    if progressive_from is not None and progressive_from < 8:
        raise invalid("--model.progressive_from", "must be at least 8 pixels", progressive_from)
    if not 0 <= shift_at_test <= LARGEST_SHIFT:
        raise invalid("--model.shift_at_test", f"must be a share of the side, in 0 to {LARGEST_SHIFT}", shift_at_test)
    if unmixed_epochs < 0:
        raise invalid("--model.unmixed_epochs", "must be at least 0", unmixed_epochs)
    if unmixed_epochs and not Mixing(mixup, cutmix):
        rule = "must be 0 without --model.mixup and --model.cutmix"
        raise invalid("--model.unmixed_epochs", rule, unmixed_epochs)
    Mixing(mixup, cutmix)


class EmotionClassifier(pl.LightningModule):
    """Classifies uint8 images (B, 3, H, W) into emotions.

    Notes:
        A batch is a dictionary: "image" uint8 (B, 3, H, W), "label" int64 (B,), "row" int64 (B,) and, where annotators
        voted, "target" float (B, C), which then is what the loss sees.

        A checkpoint has the model's plain settings under ``CONFIG_KEY``; the loss is not stored, since it is not
        needed to use the model and only plain types can be read without running code.

        While the backbone is frozen it stays in evaluation mode, so batch statistics do not drift either.
    """

    def __init__(
        self,
        classes: list[str],
        backbone: str = "tf_efficientnet_lite0",
        weights: str = "embedded",
        loss: EmotionLoss | None = None,
        head: HeadName = "linear",
        head_width: int | None = None,
        head_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        stem_stride: int | None = None,
        optimizer: OptimizerName = "adamw",
        learning_rate: float = 1e-3,
        layer_decay: float = 1.0,
        weight_decay: float = 0.01,
        sam_radius: float = 0.0,
        schedule: ScheduleName = "one_cycle",
        warmup: float = 0.2,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        unmixed_epochs: int = 0,
        progressive_from: int | None = None,
        freeze: Literal["none", "all"] = "none",
        thaw_after_epochs: int | None = None,
        flip_at_test: bool = False,
        shift_at_test: float = 0.0,
        compile: bool = False,
        channels_last: bool = True,
        size: int | None = None,
    ) -> None:
        """Build the model.

        Args:
            classes: names of the classes, in the order of their labels.
            backbone: name of a timm model.
            weights: "embedded" (an installed package), "hub", "none", or a .safetensors/.pth file.
            loss: the loss, by default cross-entropy.
            head: "linear", "dense_dense" (one hidden layer) or "normalised" (scaled cosines; LDAM always uses it).
            head_width: width of the hidden layer of "dense_dense", by default 256.
            head_scale: factor of the cosines of "normalised", by default 30; LDAM has its own.
            dropout: dropout rate before the last layer, in [0, 1).
            drop_path: rate of stochastic depth in the backbone, in [0, 1).
            stem_stride: stride of the first layers, such as 1, below the backbone's own: all feature maps become
                larger, and training slower. None: the backbone's own.
            optimizer: "adam", "adamw" or "sgd".
            learning_rate: the highest learning rate of the run.
            layer_decay: factor by which the learning rate falls from each layer of the backbone to the one before it;
                1: all layers have the same rate.
            weight_decay: weight decay of all parameters except biases and normalisation layers.
            sam_radius: radius of sharpness-aware minimisation (SAM), such as 0.05: each step uses the gradient at the
                worst point at this distance, and takes twice the time. 0: ordinary steps.
            schedule: learning-rate schedule: "constant", "one_cycle", "cosine" or "plateau" (halved after 3 epochs
                without a better macro F1).
            warmup: share of all steps in which the learning rate rises, in [0, 1).
            mixup: alpha of mixup, 0 for none.
            cutmix: alpha of cutmix, 0 for none.
            unmixed_epochs: number of epochs at the end of the training without mixup and cutmix.
            progressive_from: side in pixels of the training images in the first epoch; it grows to the full size over
                two thirds of the epochs. None: the full size in every epoch.
            freeze: "all" trains only the head; "none" trains the whole network.
            thaw_after_epochs: unfreeze the backbone after this many epochs; needs freeze "all".
            flip_at_test: average the logits with those of the mirrored image, in test and predict.
            shift_at_test: average the logits with those of the image moved by this share of its side to the right,
                left, bottom and top, in test and predict; with flip_at_test this makes ten views. 0: off.
            compile: compile the network with torch.compile.
            channels_last: use the channels-last memory layout; faster for convolutions on most devices.
            size: side of the images in pixels, which the data know; a backbone that is built for one size needs it.

        Raises:
            InputError: If an option is out of range or cannot be used together with another.
        """
        super().__init__()
        if len(classes) < 2 or len(set(classes)) != len(classes):
            msg = f"classes must be at least two different names, got {classes}"
            raise InputError(msg)
        shares = {"dropout": dropout, "drop_path": drop_path, "warmup": warmup}
        check_model(
            backbone=backbone,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            freeze=freeze,
            thaw_after_epochs=thaw_after_epochs,
            mixup=mixup,
            cutmix=cutmix,
            layer_decay=layer_decay,
            unmixed_epochs=unmixed_epochs,
            progressive_from=progressive_from,
            shift_at_test=shift_at_test,
            sam_radius=sam_radius,
            **shares,
        )
        self.classes = list(classes)
        self.loss = loss if loss is not None else CrossEntropy()
        self.mixing = Mixing(mixup, cutmix)
        if self.mixing and not self.loss.takes_soft_targets:
            raise InputError(soft_targets_refused(self.loss))
        loss_scale = self.loss.scale if self.loss.needs_normalised_head else None
        self.plain: dict[str, Any] = {
            "classes": self.classes,
            "backbone": backbone,
            **head_options(head, head_width, head_scale, loss_scale),
            "size": size,
            "stem_stride": stem_stride,
            "flip_at_test": flip_at_test,
            "shift_at_test": shift_at_test,
            "channels_last": channels_last,
        }
        self.optimizer_name, self.schedule, self.warmup = optimizer, schedule, warmup
        self.learning_rate, self.weight_decay, self.layer_decay = learning_rate, weight_decay, layer_decay
        self.sam_radius = sam_radius
        self.unmixed_epochs, self.progressive_from = unmixed_epochs, progressive_from
        self.thaw_after_epochs, self.flip_at_test = thaw_after_epochs, flip_at_test
        self.shift_at_test = shift_at_test
        self.configure_network(backbone, weights, drop_path, dropout)
        self.frozen = freeze == "all"
        self.backbone.requires_grad_(not self.frozen)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if compile:
            self.backbone.compile()  # in place, so that the names in a checkpoint stay the same
        self.configure_metrics()
        self.average: WeightAverage | None = None  # set by the callback AverageWeights while it trains
        self.test_predictions: dict[str, np.ndarray] | None = None

    @classmethod
    def from_checkpoint(cls, path: Path | str, classes: list[str] | None = None) -> Self:
        """Rebuild a trained model from a checkpoint, without network, weights package or code from the file.

        Args:
            path: of the .ckpt file.
            classes: classes that the caller expects; None: those of the checkpoint.

        Raises:
            InputError: If the file cannot be read safely, was not written by this project, or has other classes.
        """
        checkpoint = read_checkpoint(path)
        plain = used_alone(checkpoint[CONFIG_KEY])
        if classes is not None:
            require_classes(plain["classes"], classes, f"checkpoint {path}")
        model = cls(**plain, weights="none")
        try:
            model.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            msg = f"{path} is damaged: its tensors are not those of {plain['backbone']} ({str(error).splitlines()[0]})"
            raise InputError(msg) from error
        return model.eval()

    def configure_network(self, backbone: str, weights: str, drop_path: float, dropout: float) -> None:
        """Build backbone and head, and store the normalisation that the backbone expects."""
        self.backbone, features, config = build_backbone(
            backbone, weights, drop_path=drop_path, size=self.plain["size"], stem_stride=self.plain["stem_stride"]
        )
        width, scale = self.plain["head_width"], self.plain["head_scale"]
        self.head = build_head(
            self.plain["head"], features, len(self.classes), dropout=dropout, width=width, scale=scale
        )
        # of pixels in 0..255; constants of the backbone, so no checkpoint needs them
        self.register_buffer("mean", 255 * torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(config.std).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def configure_metrics(self) -> None:
        """Create one metric collection for each stage."""
        self.val_metrics = metric_collection(self.classes, "val/")
        self.test_metrics = metric_collection(self.classes, "test/")
        self.val_loss, self.test_loss = MeanLoss(), MeanLoss()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its schedules; a backbone that will be unfrozen is in it from the start."""
        stays_frozen = self.frozen and self.thaw_after_epochs is None
        parameters: Any = self.head.parameters() if stays_frozen else self.parameters()
        if self.layer_decay != 1:
            parameters = layered_groups(
                self.backbone, self.head, self.learning_rate, self.weight_decay, self.layer_decay
            )
        optimizer = build_optimizer(
            self.optimizer_name, parameters, self.learning_rate, self.weight_decay, self.sam_radius
        )
        steps = self.trainer.estimated_stepping_batches
        schedules: Any = build_schedules(
            self.schedule,
            optimizer,
            self.learning_rate,
            steps,
            self.warmup,
            monitor="val/f1_macro",
            every=self.trainer.check_val_every_n_epoch or 1,
        )
        return [optimizer], schedules

    def setup(self, stage: str) -> None:
        """Give the loss the class counts of training, and freeze a backbone that will be unfrozen later."""
        data = getattr(self.trainer, "datamodule", None)
        votes = getattr(getattr(data, "read_options", None), "votes", None)
        soft = votes == "soft" or getattr(data, "targets", None) is not None
        if soft and not self.loss.takes_soft_targets:
            raise InputError(soft_targets_refused(self.loss))
        counts = getattr(data, "train_counts", None)
        if counts is not None and stage != "predict":
            self.loss.configure(torch.as_tensor(np.asarray(counts)))
        if stage == "fit" and self._hides_gradients():
            self.backbone.requires_grad_(True)

    def _hides_gradients(self) -> bool:
        # DistributedDataParallel never synchronises a parameter that was frozen when it wrapped the model. So with
        # several processes a backbone that will thaw computes its gradients all along, and they are thrown away.
        return self.frozen and self.thaw_after_epochs is not None and self.trainer.world_size > 1

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, except for a frozen backbone."""
        super().train(mode)
        if getattr(self, "frozen", False):
            self.backbone.eval()
        return self

    def normalise(self, image: Tensor) -> Tensor:
        """Return float pixels as the backbone expects them, from values in 0..255 (B, 3, H, W)."""
        return (image.to(self.mean.dtype) - self.mean) / self.std

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, C) of images in 0..255, uint8 or float (B, 3, H, W)."""
        return self.logits(self.normalise(image))

    def logits(self, normalised: Tensor) -> Tensor:
        """Return logits (B, C) of images that are normalised already."""
        if self.plain["channels_last"]:
            normalised = normalised.contiguous(memory_format=torch.channels_last)
        return self.head(self.backbone(normalised))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch, with mixup or cutmix if set."""
        image, target = self.normalise(batch["image"]), _target(batch)
        if self.progressive_from is not None:
            full = image.shape[-1]
            side = progressive_side(self.current_epoch, self._epochs(), self.progressive_from, full)
            if side < full:
                image = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
        if self.mixing and not (self.unmixed_epochs and self.current_epoch >= self._epochs() - self.unmixed_epochs):
            if not target.is_floating_point():
                target = F.one_hot(target, len(self.classes)).float()
            image, target = self.mixing(image, target, self._step_seed())
        loss = self.loss(self.logits(image), target)
        if self._moved():
            return loss
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(image))
        return loss

    def _moved(self) -> bool:
        """Whether a sharpness-aware step has moved the weights, whose loss is not that of the model."""
        optimizers = [] if self._trainer is None else self._trainer.optimizers
        return any(getattr(optimizer, "moved", False) for optimizer in optimizers)

    def _epochs(self) -> int:
        return self.trainer.max_epochs or 1  # check_limits refuses a run without a number of epochs

    def _step_seed(self) -> int:
        run = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        numbers = [run, self.trainer.fit_loop.total_batch_idx, self.global_rank]
        return int(np.random.SeedSequence(numbers).generate_state(1)[0])

    def _evaluate(self, batch: Batch, stage: Literal["val", "test"]) -> Tensor:
        """Count a batch of a validation or test epoch and return its probabilities (B, C)."""
        logits = self.logits_at_test(batch["image"]) if stage == "test" else self(batch["image"])
        losses, weights = self.loss.checked_rows(logits, _target(batch))
        probabilities = logits.float().softmax(1)
        getattr(self, f"{stage}_loss").update(losses, weights)
        getattr(self, f"{stage}_metrics").update(probabilities, batch["label"])
        return probabilities

    def probabilities(self, image: Tensor) -> Tensor:
        """Return class probabilities (B, C) as a test would, of images in 0..255 (B, 3, H, W)."""
        return self.logits_at_test(image).float().softmax(1)

    def logits_at_test(self, image: Tensor) -> Tensor:
        """Return logits (B, C) as a test would, the mean over the views that are set, of images in 0..255."""
        shift = round(self.shift_at_test * image.shape[-1])
        views = shifted_views(self.normalise(image), shift)
        if self.flip_at_test:
            views = [view for each in views for view in (each, each.flip(-1))]
        return sum((self.logits(view) for view in views[1:]), self.logits(views[0])) / len(views)

    def _report(self, stage: Literal["val", "test"]) -> None:
        """Log the metrics of an epoch, which are summed over all processes, and reset them."""
        metrics, loss = getattr(self, f"{stage}_metrics"), getattr(self, f"{stage}_loss")
        values = {f"{stage}/loss": loss.compute()} | metrics.compute()
        # the progress bar shows the two that are watched; sync_dist only quiets a warning, all ranks hold the same
        shown = {f"{stage}/loss", f"{stage}/f1_macro"}
        for name, value in values.items():
            self.log(name, value.float(), prog_bar=name in shown, sync_dist=True)
        metrics.reset()
        loss.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Count a batch of the val part."""
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch."""
        self._report("val")

    def on_test_epoch_start(self) -> None:
        """Start collecting predictions."""
        self._collected: list[tuple[Tensor, Tensor, Tensor]] = []

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Count a batch of the test part and store its predictions."""
        self._collected.append((batch["row"], batch["label"], self._evaluate(batch, "test")))

    def on_test_epoch_end(self) -> None:
        """Log the epoch, and store every row's prediction once in ``test_predictions``, sorted by row."""
        self._report("test")
        columns = [torch.cat(column) for column in zip(*self._collected, strict=True)]
        if self.trainer.world_size > 1:
            columns = [torch.cat(gather_all_tensors(column)) for column in columns]
        self._collected.clear()
        row, label, prob = (column.cpu().numpy() for column in columns)
        _, first = np.unique(row, return_index=True)
        self.test_predictions = {"row": row[first], "label": label[first], "prob": prob[first]}

    def predict_step(self, batch: Batch, batch_index: int) -> Batch:
        """Return row (B,), probabilities (B, C) and, where known, labels (B,)."""
        known = {name: batch[name] for name in ("row", "label") if name in batch}
        return known | {"prob": self.probabilities(batch["image"])}

    def on_train_start(self) -> None:
        """Set the mode of the backbone, and check the length of a resumed run.

        Raises:
            InputError: A one-cycle run has another length than planned: its schedule would end too early, or fail.
        """
        self.on_train_epoch_start()  # which Lightning leaves out in an epoch that is resumed in its middle
        schedulers = self.lr_schedulers()
        steps = int(self.trainer.estimated_stepping_batches)
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            if isinstance(scheduler, OneCycleLR) and scheduler.total_steps != steps:
                msg = (
                    f"the run was planned for {scheduler.total_steps} steps and now has {steps}: resume it with the "
                    "epochs and batch size it had, or start a new run"
                )
                raise InputError(msg)

    def on_train_epoch_start(self) -> None:
        """Unfreeze the backbone at its epoch, also in a run resumed later than that."""
        if self.frozen and self.thaw_after_epochs is not None and self.current_epoch >= self.thaw_after_epochs:
            self.frozen = False
            self.backbone.requires_grad_(True).train()
        elif self.frozen:
            self.backbone.eval()  # Lightning leaves a module in the mode it finds, and never calls train() itself

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Tell the loss how far the run is."""
        self.loss.progress = self.trainer.global_step / self.trainer.estimated_stepping_batches

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Drop the gradients that a frozen backbone computed only for DistributedDataParallel."""
        if self.frozen:
            for parameter in self.backbone.parameters():
                parameter.grad = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the model; the weights are the moving average if there is one."""
        checkpoint[CONFIG_KEY] = self.plain
        checkpoint["format"] = FORMAT
        if self.average is not None:
            self.average.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise for a checkpoint of another model before its tensors are loaded.

        Raises:
            InputError: If classes, backbone or head differ.
        """
        plain = checkpoint.get(CONFIG_KEY)
        if plain is None:
            msg = "this is not a checkpoint of an emotion classifier: give the .ckpt file of a run"
            raise InputError(msg)
        require_classes(plain["classes"], self.classes, "the checkpoint")
        plain = used_alone(plain)
        for name in ("backbone", "stem_stride", "head", "head_width"):
            if plain.get(name) != self.plain[name]:
                stored, own = plain.get(name), self.plain[name]
                msg = f"the checkpoint has {name} {stored!r}, this run {own!r}: they must be the same"
                raise InputError(msg)
        if RAW_KEY in checkpoint and self.trainer.state.fn == TrainerFn.FITTING:
            # training continues: load the raw weights instead of the average
            if self.average is not None:
                self.average.load(checkpoint)
            checkpoint["state_dict"] = checkpoint[RAW_KEY]


def _target(batch: Batch) -> Tensor:
    return batch.get("target", batch["label"])
