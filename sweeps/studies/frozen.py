"""A head trained in seconds on features that are computed once, as Teachable Machine does it."""

import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.emotion import EmotionDataModule
from lightning_modules.beginning import check_weights
from lightning_modules.config import RunConfig, data_module
from lightning_modules.device import best_device
from lightning_modules.evaluation import keep_evaluation
from lightning_modules.heads import build_head
from lightning_modules.optimizers import build_optimizer
from lightning_modules.stops import how_it_ended
from lightning_modules.tracked_run import RunLogger, division_hash, log_beginning
from records.predictions import build_predictions, flag_protocol
from records.statistics import confusion, scores
from sweeps.studies.features import features
from sweeps.studies.plan import Cell


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
        found = scores(confusion(self.y.cpu().numpy(), logits.argmax(1).cpu().numpy(), logits.shape[1]))
        loss = float(F.cross_entropy(logits, self.y))
        return {"loss": loss, "accuracy": float(found["accuracy"]), "f1_macro": float(found["f1_macro"])}


@dataclass(frozen=True)
class Head:
    """A trained head.

    Attributes:
        probabilities: (M, C) of the outer part, by the weights of the best epoch on the part that is selected on.
        best: Macro F1 of that epoch on that part.
        marks: Accuracy on the outer part after so many epochs.
        history: By the end of each epoch, loss, accuracy and macro F1 of training and of what is selected on.
    """

    probabilities: np.ndarray
    best: float
    marks: dict[int, float]
    history: dict[str, list[float]]


def train_head(
    train: Part,
    selected_on: Part,
    outer: Part,
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
        train: To learn from.
        selected_on: The epoch with the best macro F1 on it is kept; the first of equal ones.
        outer: To report on.
        classes: C.
        width: Of the hidden layer.
        learning_rate: Constant.
        epochs: How often each row is seen.
        batch_size: Rows a step.
        seed: Of first weights and order.
        marks: Epochs after which accuracy on the outer part is noted; it selects nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = build_head("dense_dense", train.x.shape[1], classes, width=width)
    device = best_device()
    head.to(device)
    train, selected_on, outer = train.to(device), selected_on.to(device), outer.to(device)
    order = torch.Generator().manual_seed(seed)
    optimizer = build_optimizer("adam", head.parameters(), learning_rate, 0.0)
    best, noted = -1.0, {}
    kept = torch.empty(0)
    history: dict[str, list[float]] = {}
    for epoch in range(1, epochs + 1):
        head.train()
        for rows in torch.randperm(len(train.y), generator=order).to(device).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(head(train.x[rows]), train.y[rows]).backward()
            optimizer.step()
        reported = _logits(head, outer.x)
        for name, part in (("train", train), ("val", selected_on)):
            for metric, value in part.of(_logits(head, part.x)).items():
                history.setdefault(f"{name}/{metric}", []).append(value)
        if history["val/f1_macro"][-1] > best:
            best, kept = history["val/f1_macro"][-1], reported.softmax(1)
        if epoch in marks:
            noted[epoch] = outer.of(reported)["accuracy"]
    return Head(kept.cpu().numpy(), best, noted, history)


def _logits(head: nn.Module, x: Tensor) -> Tensor:
    head.eval()
    with torch.inference_mode():
        return head(x)


def run_frozen(config: RunConfig, cell: Cell) -> tuple[str, dict[str, float]]:
    """Train a cell's head and keep it as a run; return the run's id and its numbers.

    Args:
        config: with the run's name, parent and seed.
        cell: says, besides, whether the training part is doubled and after which epochs accuracy is noted.
    """
    seed = config.seed_everything
    if config.data["split"] == "given":  # the reported part stays; what is set aside in the rest changes
        config = config.override({"data.fold_seed": seed})
    data = data_module(config)
    check_weights(data, str(config.model["weights"]))
    content = f"{data.content_hash} {json.dumps(dict(cell.frozen))}"
    tracker = RunLogger(
        experiment=config.run["experiment"],
        run_name=config.run["name"],
        parent_run_id=config.run["parent"],
        system_metrics=False,
        tags={
            "recipe": cell.recipe,
            "seed": str(seed),
            "fold": "0",
            "identity": config.identity(content),
            "manifest": data.manifest.fingerprint(),
            "data": data.manifest.name,
            "division": division_hash(data),
        },
    )
    try:
        log_beginning(tracker, config, data)
        head = _fitted(data, config, cell)
        predictions = build_predictions(
            data.manifest,
            data.fold_rows.outer,
            head.probabilities,
            fold=data.fold_rows.index,
            clusters=data.clusters,
            contents=data.contents,
        )
        protocol = data.division.protocol
        tables = [flag_protocol(table, protocol) for table in (predictions, data.split_table())]
        tracker.set_tags({"selected_on": data.leak_record.get("selected_on", "inner part")})
        keep_evaluation(tracker, *tables, resamples=config.run["resamples"])
        for epoch, accuracy in head.marks.items():
            tracker.log_metrics({"test/accuracy_by_epoch": accuracy}, step=epoch)
        tracker.end("success")
    except BaseException as error:
        tracker.end(how_it_ended(error))
        raise
    noted = {f"accuracy after {epoch}": value for epoch, value in head.marks.items()}
    return str(tracker.run_id), {"inner/f1_macro": head.best, **noted}


def _fitted(data: EmotionDataModule, config: RunConfig, cell: Cell) -> Head:
    model = config.model
    labels = torch.as_tensor(data.manifest.labels)
    plain = torch.as_tensor(features(data, model["backbone"], model["weights"]))
    rows = data.fold_rows
    train, selected_on, outer = (Part(plain[part], labels[part]) for part in (rows.train, data.selected_on, rows.outer))
    if cell.frozen.get("flips"):
        mirrored = torch.as_tensor(features(data, model["backbone"], model["weights"], flipped=True))
        train = Part(torch.cat([train.x, mirrored[rows.train]]), torch.cat([train.y, train.y]))
    return train_head(
        train,
        selected_on,
        outer,
        classes=len(data.classes),
        width=int(model["head_width"] or 100),
        learning_rate=float(model["learning_rate"]),
        epochs=int(config.trainer["max_epochs"]),
        batch_size=data.batch_size,
        seed=config.seed_everything,
        marks=tuple(cell.frozen.get("marks", ())),
    )
