"""Training speed on a GPU from the cache, and its share of what the model alone can do there."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional as F

from benchmarks.report import Figure, say
from datamodules.emotion import EmotionDataModule
from lightning_modules.callbacks import NonFiniteLoss, quiet
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.config import TRAINER_DEFAULTS
from lightning_modules.optimizers import build_optimizer
from results.tracking.logger import TrackingLogger

SIZE, BATCH, WARM = 224, 512, 1
RATE, SHARE = "gpu_images_per_second", "gpu_share_of_model_alone"


class EpochSeconds(Callback):
    """Seconds from the start of each epoch to its last step, with the device's work done."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock when the device is idle."""
        torch.cuda.synchronize()
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the device and stop the clock."""
        torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)


def model_alone(classes: list[str], steps: int) -> float:
    """Return images/s of the same steps on one batch that stays on the device."""
    torch.manual_seed(0)
    model = EmotionClassifier(classes, "efficientnet_b0", "none", schedule="constant").cuda().train()
    optimizer = build_optimizer("adamw", model.parameters(), 1e-3, 0.01)
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, device="cuda")
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, len(classes), (BATCH,), device="cuda")
    start = 0.0
    for step in range(steps + 5):
        if step == 5:  # after the kernels are chosen
            torch.cuda.synchronize()
            start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model.logits(model.normalise(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.cuda.synchronize()
    return BATCH * steps / (time.perf_counter() - start)


def measure(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Return images/s of training EfficientNet-B0 from the cache, and over those of the model alone."""
    if toy or not torch.cuda.is_available():
        why = "not measured: toy size" if torch.cuda.is_available() else "not measured: no CUDA device"
        return [Figure(RATE, None, why), Figure(SHARE, None, why, at_least=0.95)]
    quiet()
    data = EmotionDataModule(
        "drawn:largest=1600,ratio=1",
        SIZE,
        batch_size=BATCH,
        split="holdout",
        near_duplicates=False,
        policy="mild",
        transform_where="all",
        seed=0,
    )
    say("drawing and caching 12,800 pictures")
    data.prepare_data()
    data.setup("fit")
    model = EmotionClassifier(data.classes, "efficientnet_b0", "none", schedule="constant")
    clock = EpochSeconds()
    settings: dict[str, Any] = TRAINER_DEFAULTS | {
        "max_epochs": WARM + 4,
        "accelerator": "gpu",
        "precision": "bf16-mixed",
        "limit_val_batches": 0,
    }
    logger = TrackingLogger(directory=str(folder / "mlruns"), system_metrics=False)
    trainer = Trainer(logger=logger, callbacks=[clock, NonFiniteLoss()], enable_checkpointing=False, **settings)
    before = model_alone(data.classes, 40)
    trainer.fit(model, datamodule=data)
    alone = (before + model_alone(data.classes, 40)) / 2  # on both sides of the training, as the device warms up
    seconds = sorted(clock.seconds[WARM:])
    rate = len(data.draws) / seconds[len(seconds) // 2]
    detail = {
        "device": torch.cuda.get_device_name(),
        "setting": f"EfficientNet-B0, {SIZE} px, bf16-mixed, batch {BATCH}, mild transforms on every picture",
        "model_alone_images_per_second": round(alone, 1),
        "epoch_seconds": [round(value, 3) for value in clock.seconds],
        "loading_processes": trainer.train_dataloader.num_workers if trainer.train_dataloader else None,
    }
    return [
        Figure(RATE, rate, "images/s of training EfficientNet-B0 at 224 px from the cache", detail=detail),
        Figure(SHARE, rate / alone, "its share of the model alone on a fixed batch", at_least=0.95, detail=detail),
    ]
