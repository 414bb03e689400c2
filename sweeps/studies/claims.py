"""Whether the cells of a study bear out what is claimed: the difference, its interval, and a p-value for all claims."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from scipy import stats

from records.matching import matched
from records.predictions import classes_of
from records.significance import Metric as Paired
from records.significance import holm, paired_permutation
from records.statistics import paired_difference
from sweeps.studies.by_image import FEW, Tested, below_each_other, between, over_seeds, paired
from sweeps.studies.outcomes import Number, Outcomes
from sweeps.studies.plan import ON, Claim

LEVEL = 0.05
SAME = 1e-9  # differences of sums in another order
PAIRED = ("f1_macro", "accuracy")
Verdict = Literal[
    "confirmed",
    "contradicted",
    "differs on these images for these models",
    "differs the other way on these images for these models",
    "not confirmed",
    "not tested",
]


@dataclass(frozen=True)
class Judged:
    """A claim and what was found.

    Attributes:
        claim: The sentence.
        higher: The number that is said to be higher, None when its cell has not been finished.
        lower: The other.
        difference: Higher minus lower.
        low: Lower end of its 95 % interval, not a number where there is none.
        high: Upper end.
        p_value: Two-sided, corrected by Holm's method over the claims of the study; None where nothing could be tested.
        test: What was tested.
        verdict: At p < .05 confirmed or contradicted, if seeds and images are both units of the test; if only one of
            them is, only that these models differ on these images. At p >= .05 not confirmed.
    """

    claim: Claim
    higher: Number | None
    lower: Number | None
    difference: float
    low: float
    high: float
    p_value: float | None
    test: str
    verdict: Verdict


def judge(claims: Sequence[Claim], outcomes: Outcomes) -> list[Judged]:
    """Test every claim and correct for their number.

    Notes:
        With three or more seeds, seeds and images are both units: a t-test over the differences of the seeds, whose
        variance includes the part that comes from their common images (`records.significance.seeds_t`). With fewer,
        cells are compared image by image (cluster permutation, cluster-bootstrap interval), which covers only the
        choice of images. Numbers that were logged in training, without predictions, are compared by a paired t-test
        over seeds, which covers only the training.
    """
    tests = [_test(claim, outcomes) for claim in claims]
    raw = [one.p_value for one in tests if one and one.p_value is not None]
    corrected = iter(holm(raw).tolist() if raw else [])
    judged = []
    for claim, test in zip(claims, tests, strict=True):
        higher, lower = outcomes.number(*claim.higher), outcomes.number(*claim.lower)
        if test is None:
            nan = float("nan")
            test = Tested(nan, nan, nan, None, "a cell has not been finished")
        p_value = None if test.p_value is None else next(corrected)
        verdict = _verdict(test, p_value)
        found = (test.difference, test.low, test.high, p_value, test.name)
        judged.append(Judged(claim, higher, lower, *found, verdict))
    return judged


def _verdict(test: Tested, p_value: float | None) -> Verdict:
    if p_value is None:
        return "not tested"
    if p_value >= LEVEL:
        return "not confirmed"
    if test.by_seed:
        return "confirmed" if test.difference > 0 else "contradicted"
    if test.difference > 0:
        return "differs on these images for these models"
    return "differs the other way on these images for these models"


def _test(claim: Claim, outcomes: Outcomes) -> Tested | None:
    above = {one.seed: one for one in outcomes.of(claim.higher[0])}
    below = {one.seed: one for one in outcomes.of(claim.lower[0])}
    seeds = sorted(above.keys() & below.keys())
    if not seeds:
        return None
    metric = claim.higher[1]
    if len(seeds) >= FEW:
        runs = [*(below[seed] for seed in seeds), *(above[seed] for seed in seeds)]
        if shared := type(runs[0]).left_out(runs, [*[claim.lower[1]] * len(seeds), *[metric] * len(seeds)]):
            return over_seeds(shared)
    if ON in metric:
        one, other = ([runs[seed].predictions for seed in seeds] for runs in (below, above))
        return paired(one, other, metric) if metric == claim.lower[1] else between(other, claim.lower[1], metric)
    if len(seeds) < FEW and metric == claim.lower[1] and metric in PAIRED:
        tables = matched([runs[seed].predictions for runs in (below, above) for seed in seeds])
        one, other = below_each_other(tables[: len(seeds)]), below_each_other(tables[len(seeds) :])
        classes = classes_of(one)
        found = paired_permutation(one, other, classes, metric=cast(Paired, metric))
        table = paired_difference(one, other, classes)
        row = table[(table["metric"] == metric) & (table["class"] == "")].iloc[0]
        together = f", {len(seeds)} seeds together" if len(seeds) > 1 else ""
        return Tested(found.difference, float(row["low"]), float(row["high"]), found.p_value, found.test + together)
    pairs = [(above[seed].number(metric)[0], below[seed].number(claim.lower[1])[0]) for seed in seeds]
    values = np.array([one - other for one, other in pairs])
    mean, name = float(values.mean()), f"paired t over {len(seeds)} seeds"
    if len(values) < FEW:
        return Tested(mean, float("nan"), float("nan"), None, f"{len(seeds)} seeds are too few for a t-test")
    if np.ptp(values) < SAME:  # as accuracies of few images may be
        return Tested(mean, mean, mean, 1.0 if mean == 0 else None, f"{name}: all differ alike")
    found_t = stats.ttest_1samp(values, 0.0)
    low, high = found_t.confidence_interval(0.95)
    return Tested(mean, float(low), float(high), float(found_t.pvalue), name)
