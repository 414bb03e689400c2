"""Training a head on frozen features, which are computed once, as Teachable Machine does."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from datamodules.emotion import EmotionDataModule
from datamodules.errors import InputError
from datamodules.files.images import DECODE_POLICY
from datamodules.files.paths import cache_root, file_hashes, replacing
from lightning_modules.backbones import EMBEDDED, best_device, build_backbone, build_head
from lightning_modules.callbacks import how_it_ended
from lightning_modules.config import RunConfig, data_module
from lightning_modules.optimizers import build_optimizer
from lightning_modules.training import RunLogger, division_hash, keep_evaluation, log_beginning, planned_epochs
from lightning_modules.warm_start import check_weights
from results.predictions import build_predictions, flag_protocol
from results.statistics import confusion, scores
from sweeps.studies.schema import Cell

FEATURES_VERSION = 1
"""Version of the computation; cached features of another version are not used."""


def features(data: EmotionDataModule, backbone: str, weights: str, *, flipped: bool = False) -> np.ndarray:
    """Return the features (N, F) float32 of every image, cached beside the pixel cache.

    The key of the cache is a hash of everything that they depend on, including the decoded pixels in the order of the
    rows. With weights ``none`` the backbone is random, always with the same seed.

    Args:
        data: Data module of the images.
        backbone: Name of a timm model.
        weights: Its weights, as in `EmotionClassifier`.
        flipped: Mirror the images, left to right.

    Raises:
        InputError: The backbone is unknown, or its weights cannot be read.
    """
    root = Path(data.cache_dir) if data.cache_dir else cache_root()
    file = root / "features" / f"{_key(data, backbone, weights, flipped)}.npy"
    if file.is_file():
        return np.load(file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, _, expected = build_backbone(backbone, weights, size=data.size)
    device = best_device()
    mean, std = (255 * torch.tensor(rgb, device=device).view(1, 3, 1, 1) for rgb in (expected.mean, expected.std))
    model.to(device).eval()
    parts = []
    loader = data.evaluation_loader(np.arange(len(data.manifest)))
    for batch in tqdm(loader, desc="features", unit="batch", disable=None):
        image = batch["image"].to(device)
        image = image.flip(-1) if flipped else image
        with torch.inference_mode():
            parts.append(model((image - mean) / std).float().cpu().numpy())
    computed = np.concatenate(parts)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, suffix=".npy") as draft:
        np.save(draft, computed)
    return computed


def _key(data: EmotionDataModule, backbone: str, weights: str, flipped: bool) -> str:
    """Return a hash of everything that the features depend on."""
    parts = {
        "version": [FEATURES_VERSION, DECODE_POLICY, version("timm")],
        "contents": hashlib.sha256("\n".join(data.contents).encode()).hexdigest(),
        "backbone": backbone,
        "weights": _weights_identity(backbone, weights),
        "size": data.size,
        "fit": data.fit,
        "device": best_device().type,  # a GPU's convolutions round in another way
        "flipped": flipped,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _weights_identity(backbone: str, weights: str) -> str:
    """Identify the weights: by the version of an installed package, or by the content of a file."""
    if weights == "embedded" and backbone in EMBEDDED:
        return f"embedded {version(EMBEDDED[backbone][0].replace('_', '-'))}"
    if weights in ("embedded", "hub", "none"):
        return weights
    file = Path(weights).expanduser().absolute()
    (content,) = file_hashes(file.parent, [file.name])
    if not content:
        msg = f"weights: cannot read {weights}; give a .safetensors or .pth file, embedded, hub or none"
        raise InputError(msg)
    return f"file {content}"


@dataclass(frozen=True)
class Part:
    """Features (N, F) and labels (N,) of one part."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> "Part":
        """Return the part on a device."""
        return Part(self.x.to(device), self.y.to(device))

    def of(self, logits: Tensor) -> dict[str, float]:
        """Return loss, accuracy and macro F1 of logits (N, C)."""
        by_metric = scores(confusion(self.y.cpu().numpy(), logits.argmax(1).cpu().numpy(), logits.shape[1]))
        loss = float(F.cross_entropy(logits, self.y))
        return {"loss": loss, "accuracy": float(by_metric["accuracy"]), "f1_macro": float(by_metric["f1_macro"])}


@dataclass(frozen=True)
class Head:
    """A trained head.

    Attributes:
        probabilities: (M, C) of the test part, by the weights of the epoch that is best on the part selected on.
        best: Macro F1 of that epoch on that part.
        marks: Accuracy on the test part by number of epochs.
        history: Loss, accuracy and macro F1 after each epoch, on the train part and on the part selected on.
    """

    probabilities: np.ndarray
    best: float
    marks: dict[int, float]
    history: dict[str, list[float]]


def train_head(
    train: Part,
    selected_on: Part,
    test: Part,
    *,
    classes: int,
    width: int,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int,
    marks: tuple[int, ...] = (),
) -> Head:
    """Train two dense layers with Adam; the same seed gives the same head.

    Args:
        train: Features and labels of the train part.
        selected_on: The first epoch with the highest macro F1 on it is selected.
        test: Features and labels of the test part.
        classes: Number of classes C.
        width: Units of the hidden layer.
        learning_rate: Constant learning rate.
        epochs: Number of epochs.
        batch_size: Rows per step.
        seed: Seed of initial weights and order.
        marks: Epochs after which accuracy on the test part is noted; it selects nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = build_head("dense_dense", train.x.shape[1], classes, width=width)
    device = best_device()
    head.to(device)
    train, selected_on, test = train.to(device), selected_on.to(device), test.to(device)
    order = torch.Generator().manual_seed(seed)
    optimizer = build_optimizer("adam", head.parameters(), learning_rate, 0.0)
    best, accuracies = -1.0, {}
    probabilities = torch.empty(0)
    history: dict[str, list[float]] = {}
    for epoch in range(1, epochs + 1):
        head.train()
        for rows in torch.randperm(len(train.y), generator=order).to(device).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(head(train.x[rows]), train.y[rows]).backward()
            optimizer.step()
        reported = _logits(head, test.x)
        for name, part in (("train", train), ("val", selected_on)):
            for metric, value in part.of(_logits(head, part.x)).items():
                history.setdefault(f"{name}/{metric}", []).append(value)
        if history["val/f1_macro"][-1] > best:
            best, probabilities = history["val/f1_macro"][-1], reported.softmax(1)
        if epoch in marks:
            accuracies[epoch] = test.of(reported)["accuracy"]
    return Head(probabilities.cpu().numpy(), best, accuracies, history)


def _logits(head: nn.Module, x: Tensor) -> Tensor:
    head.eval()
    with torch.inference_mode():
        return head(x)


def run_frozen(config: RunConfig, cell: Cell) -> tuple[str, dict[str, float]]:
    """Train a cell's head and log it as a run; return the run's id and its numbers.

    Args:
        config: With the run's name, parent and seed.
        cell: Its ``frozen`` options.
    """
    seed = config.seed_everything
    if config.data["split"] == "given":  # the test part stays; the val part differs by seed
        config = config.override({"data.fold_seed": seed})
    data = data_module(config)
    check_weights(data, str(config.model["weights"]))
    with open_run(config, cell, data, json.dumps(dict(cell.frozen))) as tracker:
        head = _fitted(data, config, cell)
        keep_probabilities(tracker, config, data, head.probabilities)
        for epoch, accuracy in head.marks.items():
            tracker.log_metrics({"test/accuracy_by_epoch": accuracy}, step=epoch)
    by_epoch = {f"accuracy after {epoch}": value for epoch, value in head.marks.items()}
    return str(tracker.run_id), {"val/best_f1_macro": head.best, **by_epoch}


@contextmanager
def open_run(config: RunConfig, cell: Cell, data: EmotionDataModule, more: str) -> Iterator[RunLogger]:
    """Open a run of a cell whose probabilities are not computed by Lightning's trainer, and end it.

    Args:
        config: With the run's name, parent and seed.
        cell: The cell.
        data: Its images.
        more: What counts for the run's identity besides the config and the images.
    """
    tracker = RunLogger(
        experiment=config.run["experiment"],
        run_name=config.run["name"],
        parent_run_id=config.run["parent"],
        system_metrics=False,
        tags={
            "recipe": str(cell.recipe),
            "seed": str(config.seed_everything),
            "fold": "0",
            "identity": config.identity(f"{data.content_hash} {more}"),
            "manifest": data.manifest.fingerprint(),
            "data": data.manifest.name,
            "division": division_hash(data),
        },
    )
    try:
        log_beginning(tracker, config, data)
        yield tracker
        tracker.end("success")
    except BaseException as error:
        tracker.end(how_it_ended(error))
        raise


def keep_probabilities(
    tracker: RunLogger, config: RunConfig, data: EmotionDataModule, probabilities: np.ndarray
) -> None:
    """Store the run's tables and everything computed from them, of probabilities (M, C) of the test part in order."""
    predictions = build_predictions(
        data.manifest,
        data.fold_rows.test,
        probabilities,
        fold=data.fold_rows.index,
        clusters=data.clusters,
        contents=data.contents,
    )
    protocol = data.division.protocol
    tables = [flag_protocol(table, protocol) for table in (predictions, data.split_table())]
    tracker.set_tags({"selected_on": data.leak_record.get("selected_on", "val part")})
    keep_evaluation(tracker, *tables, resamples=config.run["resamples"], evaluated=[])  # no model is kept


def _fitted(data: EmotionDataModule, config: RunConfig, cell: Cell) -> Head:
    model = config.model
    labels = torch.as_tensor(data.manifest.labels)
    plain = torch.as_tensor(features(data, model["backbone"], model["weights"]))
    rows = data.fold_rows
    train, selected_on, test = (Part(plain[part], labels[part]) for part in (rows.train, data.selected_on, rows.test))
    if cell.frozen.get("flips"):
        mirrored = torch.as_tensor(features(data, model["backbone"], model["weights"], flipped=True))
        train = Part(torch.cat([train.x, mirrored[rows.train]]), torch.cat([train.y, train.y]))
    return train_head(
        train,
        selected_on,
        test,
        classes=len(data.classes),
        width=int(model["head_width"] or 100),
        learning_rate=float(model["learning_rate"]),
        epochs=planned_epochs(config),
        batch_size=data.batch_size,
        seed=config.seed_everything,
        marks=tuple(cell.frozen.get("marks", ())),
    )
