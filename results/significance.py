"""Significance tests of the difference between two runs, on the same images, folds or seeds, and Holm's correction.

The primary test is a paired cluster permutation on macro F1: under the null hypothesis both models are alike, so their
predictions are exchanged in each cluster with probability 1/2. Images of a cluster (an image with its duplicates, or a
person) are exchanged together, since they are not independent. Like the intervals, the test covers the choice of test
images, not the seed of the training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as exact_mcnemar
from statsmodels.stats.multitest import multipletests

from datamodules.errors import InputError
from results.predictions import matched
from results.statistics import confusion, scores

Metric = Literal["f1_macro", "accuracy"]

_BATCH = 500  # permutations at once; one takes eight bytes a cluster
_TIE = 1e-12  # sums in another order differ in their last digits


@dataclass(frozen=True)
class SignificanceResult:
    """Result of a test.

    Attributes:
        test: Name of the test.
        difference: Second minus first.
        p_value: Two-sided; NaN if the test has no result.
        units: Number of independent units: clusters, images, folds or seeds.
        differing: Units in which the two differ; the others do not count in a paired test.
    """

    test: str
    difference: float
    p_value: float
    units: int
    differing: int


def paired_permutation(
    a: pd.DataFrame,
    b: pd.DataFrame,
    classes: Sequence[str],
    *,
    metric: Metric = "f1_macro",
    permutations: int = 9999,
    seed: int = 0,
) -> SignificanceResult:
    """Test whether the scores of `a` and `b` differ, by a paired permutation of clusters.

    Args:
        a: Prediction table.
        b: Another prediction table; images are matched by content, and those of only one table are left out.
        classes: Class names; those that have images count in macro F1.
        metric: `f1_macro` or `accuracy`.
        permutations: Number of random permutations; if no more exist, all are taken. The p-value of n random ones is
            at least 1 / (n + 1) (Phipson and Smyth 2010).
        seed: Seed of the permutations.

    Raises:
        InputError: No image in common, or settings that give no p-value.
    """
    a, b = matched([a, b])
    codes = _codes(a, b, classes)
    return exchange_test(
        a["cluster"].to_numpy(), *codes, len(classes), metric=metric, permutations=permutations, seed=seed
    )


def exchange_test(
    cluster: np.ndarray,
    label: np.ndarray,
    predicted_a: np.ndarray,
    predicted_b: np.ndarray,
    classes: int,
    *,
    metric: Metric = "f1_macro",
    permutations: int = 9999,
    seed: int = 0,
) -> SignificanceResult:
    """Like `paired_permutation`, for integers of shape (N,): cluster, true class, and predicted class of each model."""
    if metric not in ("f1_macro", "accuracy"):
        msg = f"metric: must be f1_macro or accuracy, got {metric!r}."
        raise InputError(msg)
    if permutations < 99:
        msg = f"permutations: must be at least 99, got {permutations}; 9999 is usual."
        raise InputError(msg)
    before, after = (scores(confusion(label, each, classes))[metric] for each in (predicted_a, predicted_b))
    cluster = np.unique(cluster, return_inverse=True)[1]
    difference, clusters = float(after - before), int(cluster.max()) + 1
    kind = f"paired cluster permutation, {'macro F1' if metric == 'f1_macro' else 'accuracy'}"
    half, middle = _exchanged(cluster, label, predicted_a, predicted_b, classes)
    if len(half) < 2:  # exchanging a single cluster gives a difference of the same size
        return SignificanceResult(kind, difference, 1.0, clusters, len(half))
    images = np.bincount(label, minlength=classes)

    def statistic(sign: np.ndarray, _: np.ndarray, axis: int = -1) -> np.ndarray:
        moved = sign @ half  # (..., 2 C): what b has more than the mean of both
        b_counts, a_counts = middle + moved, middle - moved
        return np.abs(_score(b_counts, images, metric) - _score(a_counts, images, metric))

    ones = np.ones(len(half))
    with np.errstate(all="ignore"):
        drawn = stats.permutation_test(
            (ones, -ones),
            statistic,
            permutation_type="samples",
            vectorized=True,
            n_resamples=permutations,
            batch=_BATCH,
            alternative="greater",
            rng=np.random.default_rng(seed),
        )
    reached = int((drawn.null_distribution >= float(statistic(ones, ones)) - _TIE).sum())
    exact = 2 ** min(len(half), 60) <= permutations  # scipy took each permutation once
    p_value = reached / len(drawn.null_distribution) if exact else (reached + 1) / (permutations + 1)
    return SignificanceResult(kind, difference, float(p_value), clusters, len(half))


def mcnemar(a: pd.DataFrame, b: pd.DataFrame, classes: Sequence[str]) -> SignificanceResult | None:
    """Test whether the accuracies differ, by the exact binomial form of McNemar's test.

    Returns:
        None if images share clusters, since the test assumes independent images.
    """
    a, b = matched([a, b])
    if a["cluster"].duplicated().any():
        return None
    label, predicted_a, predicted_b = _codes(a, b, classes)
    right_a, right_b = predicted_a == label, predicted_b == label
    table = np.array([[(right_a & right_b).sum(), (right_a & ~right_b).sum()],
                      [(~right_a & right_b).sum(), (~right_a & ~right_b).sum()]])  # fmt: skip
    differing = int(table[0, 1] + table[1, 0])
    p_value = float(exact_mcnemar(table, exact=True).pvalue) if differing else 1.0
    return SignificanceResult("McNemar, exact", float(right_b.mean() - right_a.mean()), p_value, len(label), differing)


def corrected_t(differences: Sequence[float] | np.ndarray, ratio: float) -> SignificanceResult:
    r"""Test a mean difference over the folds of a (repeated) k-fold by the corrected t of Nadeau and Bengio (2003).

    .. math:: t = \bar d / \sqrt{(1/n + \rho) s^2}, \quad n - 1 \text{ degrees of freedom}

    Folds share training images, so the p-values of the plain t-test are too small.

    Args:
        differences: Shape (n,), one for each fold and repetition.
        ratio: :math:`\rho`, test images over training images: 1 / (k - 1) for k folds.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        msg = f"differences: must be at least 2 finite numbers, one per fold, got {values.tolist()}."
        raise InputError(msg)
    if not ratio > 0:
        msg = f"ratio: must be above 0 (test images over training images, 1 / (k - 1) for k folds), got {ratio}."
        raise InputError(msg)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    differing = int((values != 0).sum())
    if spread <= _TIE:  # all differences are equal; an infinite t would claim too much for so few folds
        return SignificanceResult("corrected t", mean, 1.0 if abs(mean) <= _TIE else math.nan, len(values), differing)
    t = mean / (spread * np.sqrt(1 / len(values) + ratio))
    return SignificanceResult(
        "corrected t", mean, float(2 * stats.t.sf(abs(t), len(values) - 1)), len(values), differing
    )


def seeds_t(differences: np.ndarray, jackknife: np.ndarray) -> tuple[SignificanceResult, float, float]:
    r"""Test a mean difference over training seeds that predicted the same images.

    .. math:: t = \bar d / \sqrt{s^2 / S + \max(c, 0)}

    where :math:`s^2` is the variance of the S differences and :math:`c` the covariance of two seeds' differences that
    is due to their common images, by a jackknife over clusters. The plain t-test over seeds leaves
    :math:`c` out, as if the images were the whole population. Seeds and clusters are crossed random effects, as
    readers and cases are in the method of Obuchowski and Rockette (1995); the degrees of freedom are Satterthwaite's,
    with S - 1 for the seeds (Hillis 2007).

    Args:
        differences: Shape (S,), one per seed, at least two.
        jackknife: Shape (C, S), the same differences without each of the C clusters of images.

    Returns:
        The result of the test, and the ends of the 95 % interval. If nothing varies, the p-value is 1 for a difference
        of zero and NaN for any other.
    """
    values = np.asarray(differences, np.float64)
    seeds, clusters = len(values), len(jackknife)
    if seeds < 2 or jackknife.shape != (clusters, seeds):
        msg = f"differences: must be of at least 2 seeds with all clusters, got {values.shape} and {jackknife.shape}."
        raise InputError(msg)
    # not within classes: strata of one or two clusters, as people make, would hide the variance between clusters
    deviations = jackknife - jackknife.mean(axis=0)
    covariance = (clusters - 1) / clusters * deviations.T @ deviations
    shared = max(0.0, float((covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1))))
    own, mean = float(values.var(ddof=1)) / seeds, float(values.mean())
    differing = int((np.abs(values) > _TIE).sum())
    name, variance = f"t over {seeds} seeds and the images they share", own + shared
    if variance <= _TIE**2:
        p_value = 1.0 if abs(mean) <= _TIE else math.nan
        return SignificanceResult(name, mean, p_value, seeds, differing), mean, mean
    freedom = variance**2 / (own**2 / (seeds - 1) + shared**2 / max(clusters - 1, 1))
    error = math.sqrt(variance)
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return SignificanceResult(name, mean, p_value, seeds, differing), mean - reach, mean + reach


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values corrected by Holm's method, in the given order."""
    values = np.asarray(p_values, np.float64)
    if not len(values) or not ((values >= 0) & (values <= 1)).all():
        msg = f"p_values: must be at least one, each between 0 and 1, got {values.tolist()}."
        raise InputError(msg)
    return np.asarray(multipletests(values, method="holm")[1])


def _codes(a: pd.DataFrame, b: pd.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    index = pd.Index(list(classes))
    columns = [index.get_indexer(pd.Index(column)) for column in (a["label"], a["predicted"], b["predicted"])]
    if any((codes < 0).any() for codes in columns):
        msg = f"classes: must name every class of the tables, got {list(classes)}."
        raise InputError(msg)
    return columns[0], columns[1], columns[2]


def _exchanged(
    cluster: np.ndarray, label: np.ndarray, predicted_a: np.ndarray, predicted_b: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return half the change by exchanging each differing cluster, (D, 2 C), and mean counts of both models, (2 C,).

    The counts are correct and all predictions of each class; with the number of its images they give F1.
    """
    counts = []
    for predicted in (predicted_a, predicted_b):
        of_model = np.zeros((cluster.max() + 1, 2 * classes))
        np.add.at(of_model, (cluster, predicted), predicted == label)
        np.add.at(of_model, (cluster, classes + predicted), 1)
        counts.append(of_model)
    half = (counts[1] - counts[0]) / 2
    return half[half.any(axis=1)], (counts[0] + counts[1]).sum(axis=0) / 2


def _score(counts: np.ndarray, images: np.ndarray, metric: Metric) -> np.ndarray:
    hits, predicted = np.split(counts, 2, axis=-1)
    if metric == "accuracy":
        return hits.sum(axis=-1) / images.sum()
    below = predicted + images
    return np.divide(2 * hits, below, out=np.zeros(hits.shape), where=below > 0)[..., images > 0].mean(axis=-1)
