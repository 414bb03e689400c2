"""Speed of training and prediction: our loops against bare ones, the share of logging, a GPU's images per second."""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks import Figure, median_ratio
from datamodules.dataset import keep
from datamodules.emotion import EmotionDataModule
from datamodules.sampling import EpochBatchSampler
from datamodules.synthetic import DrawnFaces, draw
from lightning_modules.callbacks import quiet, run_callbacks
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.config import TRAINER_DEFAULTS, RunConfig, RunOptions
from lightning_modules.optimizers import build_optimizer
from lightning_modules.predictor import Predictor
from lightning_modules.training import train
from results.tracking.logger import TrackingLogger

LEARNING_RATE, DECAY = 1e-3, 0.01
TOY_RUN = (
    "--data drawn:largest=12,ratio=1 --data.size 32 --data.batch_size 16 --data.folds 3 --data.transform_where none "
    "--data.transforms null --data.n_min null --model.backbone resnet10t --model.weights none --trainer.max_epochs 1"
)


def now() -> float:
    """Return the time when the device has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class EpochTimes(Callback):
    """Seconds of each epoch until the next one starts, and of a reference that takes turns with them."""

    def __init__(self, reference: Callable[[int], object] = lambda epoch: None) -> None:
        self.reference = reference
        self.seconds: list[float] = []
        self.reference_seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the epoch before, whose end Lightning has worked on until now, and begin another."""
        self.on_train_end(trainer, pl_module)
        self._start = now()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the reference train on the same batches."""
        start = now()
        self.reference(trainer.current_epoch)
        self.reference_seconds.append(now() - start)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the last epoch."""
        if len(self.reference_seconds) > len(self.seconds):
            self.seconds.append(now() - self._start - self.reference_seconds[-1])


def load_data(largest: int, size: int, batch: int, **options: Any) -> EmotionDataModule:  # noqa: ANN401
    """Return drawn faces, cached, as a hold-out split."""
    data = EmotionDataModule(
        f"drawn:largest={largest},ratio=1", size, batch_size=batch, split="holdout", near_duplicates=False, seed=0,
        **options,
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    return data


def make_model(classes: list[str], backbone: str) -> EmotionClassifier:
    """Return a model with the same first weights at every call."""
    torch.manual_seed(0)
    constant: dict[str, Any] = {"schedule": "constant", "warmup": 0.0}
    return EmotionClassifier(classes, backbone, "none", learning_rate=LEARNING_RATE, weight_decay=DECAY, **constant)


def fit(model: EmotionClassifier, data: EmotionDataModule, times: EpochTimes, folder: Path, **options: Any) -> None:  # noqa: ANN401
    """Train as a run does, but without evaluating and saving."""
    quiet()
    guards = [callback for callback in run_callbacks(RunOptions(), folder) if not isinstance(callback, ModelCheckpoint)]
    logger = TrackingLogger(directory=str(folder / "mlruns"), system_metrics=False)
    settings: dict[str, Any] = TRAINER_DEFAULTS | {"limit_val_batches": 0, "enable_checkpointing": False, **options}
    Trainer(logger=logger, callbacks=[times, *guards], **settings).fit(model, datamodule=data)


def bare_step(model: EmotionClassifier, optimizer: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """Train on one batch as somebody would write it without Lightning, and return the loss."""
    with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda):
        loss = F.cross_entropy(model.logits(model.normalise(images)), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def training(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure images/s of our loop over a bare PyTorch loop: epochs in turns, with the same batches and weights."""
    largest, size, batch, repeats = (4, 32, 8, 1) if toy else (180, 48, 64, 6)
    backbone = "resnet10t" if toy else "tf_efficientnet_lite0"
    data = load_data(largest, size, batch)
    ours, bare = (make_model(data.classes, backbone) for _ in range(2))
    bare.train()
    optimizer = build_optimizer("adamw", bare.parameters(), LEARNING_RATE, DECAY)
    dataset: Any = data.train_dataloader().dataset
    sampler: Any = EpochBatchSampler(len(dataset), batch, seed=0)
    collate: Any = keep  # batches come ready-made
    loader: Any = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)

    def bare_epoch(number: int) -> float:
        sampler.set_epoch(number)
        total = torch.zeros(())
        for images in loader:
            total += bare_step(bare, optimizer, images["image"], images["label"])
        return float(total) / len(sampler)

    times = EpochTimes(bare_epoch)
    fit(ours, data, times, folder, max_epochs=repeats + 1, accelerator="cpu")
    pairs = zip(ours.parameters(), bare.parameters(), strict=True)
    detail = {
        "seconds": times.seconds[1:],  # the first epoch of both warms up
        "reference_seconds": times.reference_seconds[1:],
        "images_per_epoch": len(data.draws),
        "setting": f"{backbone} at {size} px, batch {batch}, AdamW, float32, {torch.get_num_threads()} threads",
        "same": "model class, first weights, optimizer, batches, reads from the cache",
        "ours_besides": "logging to MLflow, non-finite guard, Ctrl-C guard, progress bar; neither evaluates nor saves",
        "largest_weight_difference_after": max(float((a - b).detach().abs().max()) for a, b in pairs),
    }
    ratio = median_ratio(times.reference_seconds[1:], times.seconds[1:])
    return [Figure("training_loop", ratio, "images/s of our loop over a bare PyTorch loop", ">= 0.95", detail)]


THROUGHPUT: dict[str, tuple[str, dict[str, Any]]] = {
    "contiguous": ("without channels_last", {"channels_last": False}),
    "compiled": ("with torch.compile", {"compile": True}),
    "bf16": ("with bf16 autocast on the CPU", {"precision": torch.bfloat16}),
    "one_thread": ("with one thread", {"threads": 1}),
    "one_worker": ("with one loading process", {"workers": 1}),
    "two_workers": ("with two loading processes", {"workers": 2}),
}
"""Name of a changed setting to its description and what it changes."""


def throughput(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure images/s of training under one changed setting over those of the usual ones, epochs in turns."""
    largest, size, batch, repeats = (4, 32, 8, 1) if toy else (120, 48, 128, 4)
    backbone = "resnet10t" if toy else "tf_efficientnet_lite0"
    changes: dict[str, dict[str, Any]] = {"usual": {}} | {name: change for name, (_, change) in THROUGHPUT.items()}
    if shutil.which("c++") is None:  # torch.compile writes C++
        del changes["compiled"]
    data = {number: load_data(largest, size, batch, base_policy="mild", num_workers=number) for number in (0, 1, 2)}
    loaders: dict[int, Any] = {number: each.train_dataloader() for number, each in data.items()}
    models = {}
    for name, change in changes.items():
        torch.manual_seed(0)
        given = {option: change[option] for option in ("channels_last", "compile") if option in change}
        model = EmotionClassifier(data[0].classes, backbone, "none", **given).train()
        models[name] = model, build_optimizer("adamw", model.parameters(), LEARNING_RATE, DECAY)
    threads = torch.get_num_threads()
    seconds: dict[str, list[float]] = {name: [] for name in changes}
    for turn in range(repeats + 1):  # the first warms up, and compiles
        for name, change in changes.items():
            model, optimizer = models[name]
            loader = loaders[change.get("workers", 0)]
            loader.batch_sampler.set_epoch(turn)
            torch.set_num_threads(change.get("threads", threads))
            start = now()
            for images in loader:
                with torch.autocast("cpu", torch.bfloat16, enabled="precision" in change):
                    loss = F.cross_entropy(model.logits(model.normalise(images["image"])), images["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            seconds[name].append(now() - start)
    torch.set_num_threads(threads)
    usual = seconds["usual"][1:]
    detail = {
        "reference_seconds": usual,
        "reference_images_per_second": len(data[0].draws) / statistics.median(usual),
        "setting": f"{backbone} at {size} px, batch {batch}, mild transforms, {threads} threads, channels_last, no "
        "loading processes",
    }
    figures = []
    for name, (about, _) in THROUGHPUT.items():
        if name not in seconds:
            figures.append(Figure(f"throughput_{name}", None, "not measured: no C++ compiler"))
            continue
        ratio, more = median_ratio(usual, seconds[name][1:]), {"seconds": seconds[name][1:]}
        figures.append(Figure(f"throughput_{name}", ratio, f"images/s of training {about}", detail=more | detail))
    return figures


def tracking(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure seconds in log calls over seconds of a complete run of recipe ``quick``, with tables and figures."""
    options = TOY_RUN.split() if toy else ["--data", "drawn:largest=1000,ratio=10"]
    start = time.perf_counter()
    result = train(RunConfig.resolve(["--recipe", "quick", *options, "--trainer.accelerator", "cpu"]))
    total = time.perf_counter() - start
    if result is None:
        msg = "the run was not tracked"
        raise RuntimeError(msg)
    detail = {"logging_seconds": result.logging_seconds, "run_seconds": total, "setting": "one fold of recipe quick"}
    about = "seconds the main thread spends in log calls over seconds of the run"
    return [Figure("logging_share", result.logging_seconds / total, about, "<= 0.01", detail)]


def prediction(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure images/s of `Predictor` on image files over those of its network alone, in turns, same batch size."""
    count, turns, options = (24, 2, TOY_RUN.split()) if toy else (10_000, 5, ["--data", "drawn:largest=40,ratio=1"])
    train(
        RunConfig.resolve(["--recipe", "quick", *options, "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"])
    )
    side, batch = 48, 64  # FER2013's side
    spec = DrawnFaces(largest=-(-count // 7), ratio=1, size=side)
    (folder / "faces").mkdir()
    files = [folder / "faces" / f"{row:05}.png" for row in range(count)]
    for row, file in enumerate(files):
        Image.fromarray(draw(spec, row).image).save(file)
    predictor = Predictor.load("latest")
    (member,) = predictor.members
    images = np.random.default_rng(0).integers(0, 256, (batch, member.size, member.size, 3), dtype=np.uint8)
    part = count // turns
    ours, alone = [], []
    for turn in range(turns + 1):  # the first warms up
        place = folder / f"part{turn}"
        place.mkdir()
        for file in files[(turn % turns) * part : (turn % turns + 1) * part]:
            os.link(file, place / file.name)
        start = now()
        answered = sum(len(rows) for rows in predictor.stream(str(place), batch_size=batch))
        middle = now()
        for _ in range(-(-part // batch)):
            member.probabilities(images)
        ours.append(middle - start)
        alone.append((now() - middle) * part / (-(-part // batch) * batch))
        if answered != part:
            msg = f"{answered} of {part} images were answered"
            raise RuntimeError(msg)
    detail = {
        "seconds": ours[1:],
        "reference_seconds": alone[1:],
        "images_a_turn": part,
        "setting": f"{member.backbone} at {member.size} px, PNG files of {side} px, batch {batch}; listing, reading, "
        "decoding and making rows are ours, the network alone has its batch in memory",
    }
    ratio = median_ratio(alone[1:], ours[1:])
    return [Figure("prediction", ratio, "images/s of predict over its network alone", ">= 0.7", detail)]


def gpu(folder: Path, *, toy: bool = False) -> list[Figure]:
    """Measure images/s of training EfficientNet-B0 from the cache, and over those of the model alone on one batch."""
    rate_name, share_name, target = "gpu_images_per_second", "gpu_share_of_model_alone", ">= 0.95"
    if toy or not torch.cuda.is_available():
        why = "not measured: toy size" if torch.cuda.is_available() else "not measured: no CUDA device"
        return [Figure(rate_name, None, why), Figure(share_name, None, why, target)]
    size, batch, steps, warm = 224, 512, 40, 5
    data = load_data(1600, size, batch, policy="mild", transform_where="all")

    def model_alone() -> float:
        model = make_model(data.classes, "efficientnet_b0").cuda().train()
        optimizer = build_optimizer("adamw", model.parameters(), LEARNING_RATE, DECAY)
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device="cuda")
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, len(data.classes), (batch,), device="cuda")
        for step in range(steps + warm):
            if step == warm:  # after the kernels are chosen
                start = now()
            bare_step(model, optimizer, images, labels)
        return batch * steps / (now() - start)

    before = model_alone()
    times = EpochTimes()
    model = make_model(data.classes, "efficientnet_b0")
    fit(model, data, times, folder, max_epochs=5, accelerator="gpu", precision="bf16-mixed")
    alone = (before + model_alone()) / 2  # on both sides of the training, as the device warms up
    rate = len(data.draws) / sorted(times.seconds[1:])[2]
    detail = {
        "device": torch.cuda.get_device_name(),
        "setting": f"EfficientNet-B0, {size} px, bf16-mixed, batch {batch}, mild transforms on every image",
        "model_alone_images_per_second": alone,
        "epoch_seconds": times.seconds,
    }
    return [
        Figure(rate_name, rate, "images/s of training EfficientNet-B0 at 224 px from the cache", "", detail),
        Figure(share_name, rate / alone, "its share of the model alone on a fixed batch", target, detail),
    ]
