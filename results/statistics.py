"""Scores of a prediction table with bootstrap intervals: F1, accuracy, calibration, paired differences.

Every interval resamples whole clusters (an image with its duplicates, or a person), since images of one cluster are
not independent. Resampling is stratified by class: a cluster belongs to the stratum of its majority label (the first
class on a tie), so that every resample keeps the number of clusters of each class. Intervals are percentiles
(Efron and Tibshirani 1993, chapter 13). They cover the choice of test images, not the seed of the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.errors import InputError
from results.predictions import PROBABILITY, check_predictions, join_clusterings

FEW_CLUSTERS = 10  # with fewer, an interval is not reliable, and tables mark the class


def confusion(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts of shape (C, C): rows are true classes, columns predicted ones."""
    return np.bincount(label * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def scores(counts: np.ndarray, present: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return scores of confusion counts of shape (..., C, C).

    `precision`, `recall` and `f1` have shape (..., C); `f1_macro`, `balanced_accuracy` and `accuracy` shape (...).
    Zero division gives 0. `f1_macro` is the mean F1 of the classes that have images, and `balanced_accuracy` their mean
    recall: a class that a test part lacks cannot be measured on it.

    Args:
        counts: Rows are true classes, columns predicted ones.
        present: (C,) bool, the classes that `f1_macro` averages; by default those with images in each matrix. Of
            resamples it is given, so that all average the same classes.
    """
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    recall = _ratio(hit, true)
    f1 = _ratio(2 * hit, true + predicted)
    averaged = true > 0 if present is None else np.broadcast_to(present, true.shape)
    return {
        "precision": _ratio(hit, predicted),
        "recall": recall,
        "f1": f1,
        "f1_macro": _ratio((f1 * averaged).sum(axis=-1), averaged.sum(axis=-1)),
        "balanced_accuracy": _ratio(recall.sum(axis=-1), (true > 0).sum(axis=-1)),
        "accuracy": _ratio(hit.sum(axis=-1), true.sum(axis=-1)),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(above, below, out=np.zeros(above.shape), where=below > 0)


@dataclass(frozen=True)
class _Kinds:
    """Kinds of clusters with equal counts; drawing a number of each kind is the same as drawing clusters.

    Most clusters are one image, so a stratum has few kinds, and resampling is cheap.
    """

    counts: np.ndarray  # (K, F) flattened confusion counts of one cluster of the kind
    stratum: np.ndarray  # (K,)
    clusters: np.ndarray  # (K,) number of clusters of the kind

    def resample(self, resamples: int, seed: int) -> np.ndarray:
        """Return confusion counts of shape (resamples, F)."""
        generator = np.random.default_rng(seed)
        total = np.zeros((resamples, self.counts.shape[1]))
        for stratum in np.unique(self.stratum):
            inside = self.stratum == stratum
            size = self.clusters[inside]
            drawn = generator.multinomial(size.sum(), size / size.sum(), size=resamples)  # (resamples, kinds inside)
            total += drawn @ self.counts[inside]
        return total


def _kinds(cluster: np.ndarray, label: np.ndarray, cells: Sequence[np.ndarray], classes: int) -> _Kinds:
    """Group clusters by stratum and counts; `cells` has one flat confusion cell per image, for each model."""
    numbers = np.unique(cluster, return_inverse=True)[1]  # (N,)
    total = numbers.max() + 1
    labels = _counts(numbers, label, total, classes)  # (clusters, C)
    each = [_counts(numbers, cell, total, classes * classes) for cell in cells]
    together = np.concatenate([labels.argmax(axis=1)[:, None], *each], axis=1).astype(np.int32)
    packed = np.ascontiguousarray(together).view(np.dtype((np.void, together.dtype.itemsize * together.shape[1])))
    _, first, size = np.unique(packed.ravel(), return_index=True, return_counts=True)
    chosen = together[first]
    return _Kinds(chosen[:, 1:].astype(np.float64), chosen[:, 0], size)


def _counts(row: np.ndarray, column: np.ndarray, rows: int, columns: int) -> np.ndarray:
    from scipy.sparse import coo_matrix  # slow to import, and commands that only list runs import this module

    return coo_matrix((np.ones(len(row), np.int32), (row, column)), shape=(rows, columns)).toarray()


def cluster_bootstrap(
    predictions: pd.DataFrame,
    classes: Sequence[str],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return scores with percentile intervals from a cluster bootstrap stratified by class.

    Returns:
        One row a score: `metric` (f1_macro, accuracy, balanced_accuracy, precision, recall, f1), `class` ("" for the
        first three), `value`, `low`, `high`, `images`, `clusters` (that have an image of the class) and
        `few_clusters` (fewer than 10). `attrs` has level, resamples and seed.

    Raises:
        InputError: `resamples` is below 100, `level` is not between 0 and 1, or the table has other classes.
    """
    _check_settings(resamples, level)
    label, predicted = _codes(predictions, classes)
    count, cluster = len(classes), predictions["cluster"].to_numpy()
    kinds = _kinds(cluster, label, [label * count + predicted], count)
    images = np.bincount(label, minlength=count)
    drawn = scores(kinds.resample(resamples, seed).reshape(resamples, count, count), images > 0)
    value = scores(confusion(label, predicted, count))
    tails = [50 * (1 - level), 50 * (1 + level)]
    in_class = pd.DataFrame({"label": label, "cluster": cluster}).drop_duplicates()["label"].value_counts()
    clusters = in_class.reindex(range(count), fill_value=0).to_numpy()
    few = clusters < FEW_CLUSTERS
    rows = []
    for metric in ("f1_macro", "accuracy", "balanced_accuracy"):
        low, high = np.percentile(drawn[metric], tails)
        rows.append((metric, "", float(value[metric]), low, high, len(label), len(np.unique(cluster)), bool(few.any())))
    for metric in ("precision", "recall", "f1"):
        low, high = np.percentile(drawn[metric], tails, axis=0)  # (C,)
        rows += [
            (metric, name, value[metric][i], low[i], high[i], images[i], clusters[i], bool(few[i]))
            for i, name in enumerate(classes)
        ]
    names = ["metric", "class", "value", "low", "high", "images", "clusters", "few_clusters"]
    table = pd.DataFrame(rows, columns=names)
    table.attrs = {"level": level, "resamples": resamples, "seed": seed}
    return table


def paired_difference(
    a: pd.DataFrame,
    b: pd.DataFrame,
    classes: Sequence[str],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the scores of `b` minus those of `a` on the same images, with intervals.

    Both models are scored on the same resampled clusters, so the difficulty of a test set for both cancels. Images are
    matched by row and content. If the tables have different clusters, clusters that share an image are joined.

    Returns:
        One row a score: `metric`, `class`, `a`, `b`, `difference`, `low`, `high`.
    """
    _check_settings(resamples, level)
    both = _match(a, b)
    label, predicted_a = _codes(both[["label", "predicted"]], classes)
    predicted_b = _codes(both[["label", "predicted_b"]].set_axis(["label", "predicted"], axis=1), classes)[1]
    count = len(classes)
    cells = [label * count + predicted for predicted in (predicted_a, predicted_b)]
    kinds = _kinds(join_clusterings([both["cluster"].to_numpy(), both["cluster_b"].to_numpy()]), label, cells, count)
    drawn = kinds.resample(resamples, seed).reshape(resamples, 2, count, count)
    present = np.bincount(label, minlength=count) > 0
    before, after = scores(drawn[:, 0], present), scores(drawn[:, 1], present)
    value_a, value_b = (scores(confusion(label, predicted, count)) for predicted in (predicted_a, predicted_b))
    tails = [50 * (1 - level), 50 * (1 + level)]
    rows = []
    for metric in ("f1_macro", "accuracy", "balanced_accuracy"):
        low, high = np.percentile(after[metric] - before[metric], tails)
        score_a, score_b = float(value_a[metric]), float(value_b[metric])
        rows.append((metric, "", score_a, score_b, score_b - score_a, low, high))
    low, high = np.percentile(after["f1"] - before["f1"], tails, axis=0)
    rows += [
        ("f1", name, value_a["f1"][i], value_b["f1"][i], value_b["f1"][i] - value_a["f1"][i], low[i], high[i])
        for i, name in enumerate(classes)
    ]
    table = pd.DataFrame(rows, columns=["metric", "class", "a", "b", "difference", "low", "high"])
    table.attrs = {"level": level, "resamples": resamples, "seed": seed, "images": len(both)}
    return table


def _match(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    check_predictions(a)
    check_predictions(b)
    keys = ["row", "content"]
    both = a.merge(b[[*keys, "label", "predicted", "cluster"]], on=keys, suffixes=("", "_b"), validate="one_to_one")
    if len(both) < len(a) or len(both) < len(b):
        msg = (
            f"a and b: must predict the same images; of {len(a)} and {len(b)} only {len(both)} are the same by row and "
            "content. Compare runs on one manifest and one test part."
        )
        raise InputError(msg)
    differing = int((both["label"].astype(str) != both["label_b"].astype(str)).sum())
    if differing:
        msg = f"a and b: must have the same labels, {differing} images differ. Compare runs made with one manifest."
        raise InputError(msg)
    return both


def fold_scores(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return f1_macro, accuracy and balanced_accuracy of each fold, index `fold`."""
    names = ["f1_macro", "accuracy", "balanced_accuracy"]
    rows = {}
    for fold, part in predictions.groupby("fold"):
        by_metric = scores(confusion(*_codes(part, classes), len(classes)))
        rows[fold] = [float(by_metric[name]) for name in names]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names).rename_axis("fold")


def whole_scores(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, float]:
    """Return f1_macro, accuracy and balanced_accuracy of a prediction table."""
    table = fold_scores(predictions.assign(fold=0), classes)
    return {str(name): float(value) for name, value in table.iloc[0].items()}


def mean_and_sd(values: pd.DataFrame) -> pd.DataFrame:
    """Return mean and sample standard deviation (n - 1) of each column, such as folds or seeds."""
    return pd.DataFrame({"mean": values.mean(), "sd": values.std(ddof=1), "n": values.count()})


def calibration(predictions: pd.DataFrame, classes: Sequence[str], *, bins: int = 15) -> dict[str, float]:
    r"""Return `nll`, `brier` and `calibration_error`.

    nll is the mean of :math:`-\log p_y` (p at least 1e-12), brier the mean of :math:`\sum_c (p_c - [c = y])^2` in
    [0, 2], calibration_error the expected gap between confidence and accuracy over `bins` bins of equal width
    (Guo et al. 2017).
    """
    label, predicted = _codes(predictions, classes)
    probability = predictions[[f"{PROBABILITY}{name}" for name in classes]].to_numpy(np.float64)  # (N, C)
    truth = np.eye(len(classes))[label]
    confidence, right = probability.max(axis=1), label == predicted
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=confidence - right, minlength=bins)
    return {
        "nll": float(-np.log(np.clip(probability[np.arange(len(label)), label], 1e-12, 1)).mean()),
        "brier": float(((probability - truth) ** 2).sum(axis=1).mean()),
        "calibration_error": float(np.abs(gap).sum() / len(label)),
    }


def _codes(predictions: pd.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    index = pd.Index(list(classes))
    columns = [index.get_indexer(pd.Index(predictions[column])) for column in ("label", "predicted")]
    for column, codes in zip(("label", "predicted"), columns, strict=True):
        if not len(codes) or (codes < 0).any():
            other = sorted(set(predictions[column].astype(str)) - set(classes))
            msg = f"predictions: column {column} must hold some of the classes {list(classes)}, got {other[:5]}."
            raise InputError(msg)
    return columns[0], columns[1]


def _check_settings(resamples: int, level: float) -> None:
    if resamples < 100:
        msg = f"resamples: must be at least 100 for an interval, got {resamples}; 2000 is usual."
        raise InputError(msg)
    if not 0 < level < 1:
        msg = f"level: must be between 0 and 1, got {level}; 0.95 is usual."
        raise InputError(msg)
