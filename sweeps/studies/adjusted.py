"""Adjust a trained classifier for rare classes, without training: tau-normalised weights, or test-time tau."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.emotion import EmotionDataModule
from datamodules.errors import invalid
from lightning_modules.backbones import best_device
from lightning_modules.classifier import EmotionClassifier
from lightning_modules.config import RunConfig, data_module
from lightning_modules.decisions import LogitAdjustment, logarithms, macro_f1, softmax
from lightning_modules.warm_start import check_weights
from results.tracking.runs import run_checkpoint
from sweeps.studies.frozen_features import keep_probabilities, open_run
from sweeps.studies.schema import Cell

TAU = "adjustment/tau"  # metric of a run: the selected value
_TAUS = np.arange(21) * 0.05


def tau_normalised(features: np.ndarray, weight: np.ndarray, tau: float) -> np.ndarray:
    r"""Return logits (N, C) of a linear layer whose weight vectors are scaled: :math:`w_c / \|w_c\|^\tau`.

    Weight vectors of frequent classes tend to be longer. The bias is left out (Kang et al. 2020, arXiv:1910.09217).

    Args:
        features: (N, F), inputs of the layer.
        weight: (C, F).
        tau: 0 leaves the lengths as they are, 1 makes them equal.
    """
    scaled: np.ndarray = features @ (weight / np.linalg.norm(weight, axis=1, keepdims=True) ** tau).T
    return scaled


def select_tau(features: np.ndarray, weight: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Return the tau in 0, 0.05 ... 1 with the largest macro F1, of several the smallest, and this macro F1.

    Args:
        features: (N, F) of the val part.
        weight: (C, F).
        label: True classes as codes, (N,).
    """
    found = [macro_f1(label, tau_normalised(features, weight, tau).argmax(axis=1), len(weight)) for tau in _TAUS]
    best = int(np.argmax(np.round(found, 12)))
    return round(float(_TAUS[best]), 2), found[best]


@dataclass(frozen=True)
class Answers:
    """What a network gives for M images: probabilities (M, C), and the inputs of its last layer, (M, F)."""

    probabilities: np.ndarray
    features: np.ndarray


def answers(model: EmotionClassifier, data: EmotionDataModule, rows: np.ndarray) -> Answers:
    """Return what a model gives for some rows, in their order; with several views of an image their means."""
    device = best_device()
    model.to(device).eval()
    inputs: list[Tensor] = []
    hook = last_layer(model).register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    probabilities, features = [], []
    try:
        for batch in data.evaluation_loader(rows):
            with torch.inference_mode():
                probabilities.append(model.probabilities(batch["image"].to(device)).cpu().numpy())
                features.append(torch.stack(inputs).mean(0).float().cpu().numpy())  # logits are linear in them
            inputs.clear()
    finally:
        hook.remove()
    return Answers(np.concatenate(probabilities), np.concatenate(features).astype(np.float64))


def run_adjusted(config: RunConfig, cell: Cell) -> tuple[str, dict[str, float]]:
    """Adjust the classifier that ``run.start_from`` names and log its predictions as a run.

    Tau is selected on the part that epochs are selected on, too: the val part.

    Args:
        config: With the run's name, parent, seed and start.
        cell: Its ``adjustment``.

    Returns:
        The run's id, and its numbers: macro F1 on the part selected on, and tau.

    Raises:
        InputError: The classifier has seen images of the test part, or its last layer has no weights to normalise.
    """
    data = data_module(config)
    checkpoint = run_checkpoint(config.run["start_from"])
    check_weights(data, str(checkpoint))
    model = EmotionClassifier.from_checkpoint(checkpoint, data.classes)
    weight = None if cell.adjustment == "tau" else last_weight(model)
    with open_run(config, cell, data, str(cell.adjustment)) as tracker:
        selected_on = answers(model, data, data.selected_on)
        test = answers(model, data, data.fold_rows.test)
        label = data.manifest.labels[data.selected_on]
        if weight is None:
            values = logarithms(selected_on.probabilities)
            step = LogitAdjustment.fit(values, label)
            tau, best = step.tau, macro_f1(label, step(values).argmax(axis=1), len(data.classes))
            probabilities = softmax(step(logarithms(test.probabilities)))
        else:
            tau, best = select_tau(selected_on.features, weight, label)
            probabilities = softmax(tau_normalised(test.features, weight, tau))
        keep_probabilities(tracker, config, data, probabilities)
    return str(tracker.run_id), {"val/best_f1_macro": best, TAU: tau}


def last_layer(model: EmotionClassifier) -> nn.Module:
    """Return the layer that gives the logits."""
    return cast(nn.Sequential, model.head)[-1]


def last_weight(model: EmotionClassifier) -> np.ndarray:
    """Return the weights (C, F) of the last layer.

    Raises:
        InputError: It is not a linear layer; those of a normalised head have equal lengths already.
    """
    last = last_layer(model)
    if not isinstance(last, nn.Linear):
        rule = "must be linear or dense_dense for tau-normalisation, which scales the weights of the last layer"
        raise invalid("--model.head", rule, model.plain["head"])
    weight: np.ndarray = last.weight.detach().cpu().double().numpy()
    return weight
