"""Decisions: post-processing that turns a network's probabilities into an answer, fitted on the val part of a run.

Each step is a few numbers, computed with NumPy, that a checkpoint and an ONNX file carry: a temperature, logit
adjustment (tau), a threshold per class, and a rule that leaves images unanswered with a stated risk. Steps work on
log-probabilities, which equal the logits up to a constant of each image.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from datamodules.errors import InputError, invalid
from results.predictions import PROBABILITY, classes_of
from results.selective import decided_table
from results.statistics import confusion, scores

if TYPE_CHECKING:  # what only fitting needs is imported there: every prediction imports this file
    from lightning_modules.config import DecisionOptions

DECISIONS_KEY, JOINT_KEY = "decisions", "joint_decisions"  # where checkpoints and ONNX files keep them
NO_VAL_PART = (
    "decisions: the run has no val part to fit them on, since it selects on the test part; train with "
    "`emotion fit --data.protocol honest`, or fit no decisions"
)
UNSURE = "unsure"  # the label of an image that is not answered
LEAST = 50  # val images of a class, below which it gets no threshold of its own
LEVEL = 0.9  # confidence with which a stated risk holds
_TINY = 1e-30  # smallest probability whose logarithm is taken
_GRID = np.arange(-30, 31) * 0.05  # logarithms of thresholds
_TAUS = np.arange(-20, 41) * 0.05
_PASSES = 10


def logarithms(probabilities: np.ndarray) -> np.ndarray:
    """Return log-probabilities, float64 (N, C), of at least `log(1e-30)`."""
    return np.log(np.maximum(probabilities.astype(np.float64), _TINY))


def softmax(values: np.ndarray) -> np.ndarray:
    """Return probabilities (N, C) of logits (N, C)."""
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def macro_f1(label: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Return the macro F1 of codes (N,), over the classes that have images."""
    return float(scores(confusion(label, predicted, classes))["f1_macro"])


class Step(ABC):
    """A step that changes logits; its fields are plain numbers, from which it is made again."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, values: np.ndarray, label: np.ndarray) -> Self:
        """Fit the step on the val part.

        Args:
            values: Logits, float64 (N, C).
            label: True classes as codes, (N,).
        """

    @abstractmethod
    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return changed logits (N, C)."""

    @abstractmethod
    def text(self, classes: Sequence[str]) -> str:
        """Return what was fitted, in a few words."""


@dataclass(frozen=True)
class Temperature(Step):
    r"""Logits divided by one temperature, which minimises the NLL of the val part: :math:`z_c / T`.

    It changes probabilities, and not which one is the largest (Guo et al. 2017, arXiv:1706.04599). T is from 0.05 to
    20.
    """

    name: ClassVar[str] = "temperature"
    temperature: float

    @classmethod
    def fit(cls, values: np.ndarray, label: np.ndarray) -> Self:
        """Minimise the mean of `-log p_label`."""
        from scipy.optimize import minimize_scalar

        def loss(exponent: float) -> float:
            scaled = values / np.exp(exponent)
            peak = scaled.max(axis=1)
            total = np.log(np.exp(scaled - peak[:, None]).sum(axis=1)) + peak
            return float((total - scaled[np.arange(len(label)), label]).mean())

        found = minimize_scalar(loss, bounds=(log(0.05), log(20)), method="bounded", options={"xatol": 1e-6})
        return cls(float(np.exp(found.x)))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return `values / T`."""
        return values / self.temperature

    def text(self, classes: Sequence[str]) -> str:
        """Return the temperature."""
        return f"temperature {self.temperature:.3f}"


@dataclass(frozen=True)
class LogitAdjustment(Step):
    r"""Logits less tau times the logarithm of the class's share: :math:`z_c - \tau \log \pi_c`.

    The shares are those of the val part, each class with one image more, so that a class without images has one. Tau
    is the value in -1, -0.95 ... 2 with the largest macro F1 on the val part, of several the one nearest to 0
    (post-hoc logit adjustment, Menon et al. 2021, arXiv:2007.07314).
    """

    name: ClassVar[str] = "tau"
    tau: float
    shares: tuple[float, ...]

    @classmethod
    def fit(cls, values: np.ndarray, label: np.ndarray) -> Self:
        """Try every tau."""
        classes = values.shape[1]
        counts = np.bincount(label, minlength=classes) + 1
        shares = tuple((counts / counts.sum()).tolist())
        taus = sorted(_TAUS.tolist(), key=abs)
        found = [macro_f1(label, cls(tau, shares)(values).argmax(axis=1), classes) for tau in taus]
        return cls(round(taus[int(np.argmax(np.round(found, 12)))], 2), shares)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the adjusted logits."""
        return values - self.tau * np.log(self.shares)

    def text(self, classes: Sequence[str]) -> str:
        """Return tau."""
        return f"tau {self.tau:.2f}"


@dataclass(frozen=True)
class Thresholds(Step):
    r"""Probabilities divided by a threshold per class before the largest is chosen: :math:`z_c - \log t_c`.

    The thresholds are fitted one after the other for the largest macro F1 on the val part, in up to ten rounds, each
    from 0.22 to 4.5; of equal ones the nearest to 1. A class with fewer than 50 val images keeps 1.
    """

    name: ClassVar[str] = "thresholds"
    thresholds: tuple[float, ...]
    fitted: tuple[bool, ...]

    @classmethod
    def fit(cls, values: np.ndarray, label: np.ndarray) -> Self:
        """Ascend along one class after the other."""
        classes = values.shape[1]
        fitted = np.bincount(label, minlength=classes) >= LEAST
        logs = np.zeros(classes)
        grid = np.array(sorted(_GRID.tolist(), key=abs))
        for _ in range(_PASSES):
            before = logs.copy()
            for column in np.flatnonzero(fitted):
                rest = values - logs
                rest[:, column] = -np.inf
                rival, best = rest.argmax(axis=1), rest.max(axis=1)
                chosen = [np.where(values[:, column] - step > best, column, rival) for step in grid]
                found = np.round([macro_f1(label, predicted, classes) for predicted in chosen], 12)
                logs[column] = grid[int(np.argmax(found))]
            if np.array_equal(before, logs):
                break
        return cls(tuple(np.exp(logs).tolist()), tuple(fitted.tolist()))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return logits less the logarithms of the thresholds."""
        return values - np.log(self.thresholds)

    def text(self, classes: Sequence[str]) -> str:
        """Return the thresholds, and the classes that have none."""
        named = list(zip(classes, self.thresholds, self.fitted, strict=True))
        shown = ", ".join(f"{name} {value:.2f}" for name, value, fitted in named if fitted)
        kept = ", ".join(name for name, _, fitted in named if not fitted)
        without = f"; not fitted, fewer than {LEAST} val images: {kept}" if kept else ""
        return f"thresholds {shown or 'none'}{without}"


class Rule(ABC):
    """A rule of which images are answered, with a stated risk."""

    name: ClassVar[str]
    easier: ClassVar[str]  # what to state where there are too few images

    @classmethod
    @abstractmethod
    def fewest(cls, stated: float) -> int:
        """Return how many images the rule needs to be fitted on."""

    @classmethod
    def check(cls, images: int, stated: float, prefix: str = "--") -> None:
        """Check that there are enough images to fit the rule on; ``prefix`` is that of the option in the message.

        Raises:
            InputError: There are too few.
        """
        if images < (fewest := cls.fewest(stated)):
            rule = f"needs at least {fewest} images to be fitted on, of which there are {images}"
            raise invalid(f"{prefix}{cls.name}", rule, stated, f"give a {cls.easier}, or a larger val part")

    @classmethod
    @abstractmethod
    def fit(cls, probabilities: np.ndarray, predicted: np.ndarray, label: np.ndarray, stated: float) -> Self:
        """Fit the rule on images that fitted nothing else.

        Args:
            probabilities: Probabilities (N, C).
            predicted: Decided classes as codes, (N,).
            label: True classes as codes, (N,).
            stated: What the rule promises.

        Raises:
            InputError: There are too few images, or the network is not good enough.
        """

    @abstractmethod
    def candidates(self, probabilities: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Return the set of classes of each image, bool (N, C): answered if it is the decided class alone."""

    @abstractmethod
    def text(self) -> str:
        """Return what the rule promises, and on how many images it was fitted."""


@dataclass(frozen=True)
class SelectiveRisk(Rule):
    r"""Answer images whose decided class has a probability above a threshold: at most a share `risk` of them is wrong.

    Thresholds that answer more and more val images are tested in a fixed order until one fails: the null hypothesis
    that the risk is above the stated one is rejected if the binomial tail of the errors is at most 0.1. So the risk of
    new images like those of the val part is at most the stated one with 90 % confidence over val parts (fixed-sequence
    testing: Angelopoulos et al. 2021, arXiv:2110.01052; selective risk: Geifman and El-Yaniv 2017, arXiv:1705.08500).
    """

    name: ClassVar[str] = "risk"
    easier: ClassVar[str] = "larger risk"
    risk: float
    threshold: float
    images: int

    @classmethod
    def fewest(cls, stated: float) -> int:
        """Return the number from which on a test without, or with up to three errors or so, can pass."""
        return 3 * ceil(log(1 - LEVEL) / log(1 - stated)) + 1

    @classmethod
    def fit(cls, probabilities: np.ndarray, predicted: np.ndarray, label: np.ndarray, stated: float) -> Self:
        """Test thresholds at each hundredth of the images, from the surest ones on."""
        from scipy.stats import binom

        images = len(label)
        cls.check(images, stated)
        first = cls.fewest(stated) - 1
        confidence = probabilities[np.arange(images), predicted]
        ordered, wrong = np.sort(confidence)[::-1], predicted != label
        numbers = np.unique(np.linspace(first, images, 101).astype(int))
        # of images strictly above a value, which is one of theirs, the number of errors is binomial
        values = np.append(ordered, 0.0)[numbers]
        above = confidence[:, None] > values  # (N, thresholds)
        answered, errors = above.sum(axis=0), (above & wrong[:, None]).sum(axis=0)
        enough = answered >= first  # where many images are equally sure, few or none are above a value
        values, answered, errors = values[enough], answered[enough], errors[enough]
        passed = int(np.cumprod(binom.cdf(errors, answered, stated) <= 1 - LEVEL).sum())
        if not passed:
            rule = f"cannot be guaranteed, since {errors[0]} of the {answered[0]} most confident predictions are wrong"
            raise invalid("--risk", rule, stated, "give a larger risk, or train a better model")
        return cls(float(stated), float(values[passed - 1]), images)

    def candidates(self, probabilities: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Return the decided class, or no class where it is not probable enough."""
        here = np.arange(probabilities.shape[1]) == predicted[:, None]
        return here & (probabilities > self.threshold)

    def text(self) -> str:
        """Return the risk."""
        return (
            f"unsure unless the probability is above {self.threshold:.3f}: at most {self.risk:.1%} of the answers are "
            f"wrong, with {LEVEL:.0%} confidence (fitted on {self.images} images)"
        )


@dataclass(frozen=True)
class ConformalSets(Rule):
    r"""Sets of classes that hold the true one for a share `coverage` of the images; answered if the set is one class.

    A class is in the set if its probability is at least :math:`1 - q`, with q the :math:`\lceil (n + 1) coverage
    \rceil`-th smallest value of :math:`1 - p_y` over n val images (split conformal prediction, Sadinle et al. 2019,
    arXiv:1609.00451). The promise is about the sets of all images, not about those of one class.
    """

    name: ClassVar[str] = "coverage"
    easier: ClassVar[str] = "smaller coverage"
    coverage: float
    threshold: float
    images: int

    @classmethod
    def fewest(cls, stated: float) -> int:
        """Return the number whose quantile exists."""
        return ceil(round(stated / (1 - stated), 9))

    @classmethod
    def fit(cls, probabilities: np.ndarray, predicted: np.ndarray, label: np.ndarray, stated: float) -> Self:
        """Take the quantile."""
        images = len(label)
        cls.check(images, stated)
        place = ceil(round((images + 1) * stated, 9))
        own = probabilities[np.arange(images), label]
        return cls(float(stated), float(np.sort(own)[::-1][place - 1]), images)

    def candidates(self, probabilities: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Return the classes that are probable enough."""
        return probabilities >= self.threshold

    def text(self) -> str:
        """Return the coverage."""
        return (
            f"unsure unless only one class has a probability of at least {self.threshold:.3f}: the sets of such "
            f"classes hold the true one for {self.coverage:.1%} of the images (fitted on {self.images} images)"
        )


STEPS: dict[str, type[Step]] = {step.name: step for step in (Temperature, LogitAdjustment, Thresholds)}
RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (SelectiveRisk, ConformalSets)}


def check_val_part(label: np.ndarray, classes: Sequence[str], options: "DecisionOptions", prefix: str = "--") -> None:
    """Check that a val part can fit decisions; the network is not needed for that.

    Args:
        label: Classes of the val part as codes, (N,).
        classes: Names of the classes.
        options: What is fitted.
        prefix: Of the options' names in messages.

    Raises:
        InputError: The val part has one class, or fewer images than classes or than the rule of abstention needs; or a
            class is called "unsure".
    """
    hint = "train with a larger val part (`emotion fit --data.inner_fraction 0.2`), or fit no decisions"
    present = np.unique(label)
    if len(present) < 2:
        names = ", ".join(classes[index] for index in present) or "none"
        raise invalid("decisions", "the val part must have images of at least 2 classes", names, hint)
    if len(label) < len(classes):
        rule = f"the val part must have at least as many images as there are classes ({len(classes)})"
        raise invalid("decisions", rule, len(label), hint)
    if options.rule and UNSURE in classes:
        msg = f"decisions: no class may be called {UNSURE!r}, which is the label of images that are not answered"
        raise InputError(msg)
    if options.rule:
        name, stated = options.rule
        RULES[name].check(len(label) // 2 if options.steps else len(label), stated, prefix)  # steps: the other half


@dataclass(frozen=True)
class Decided:
    """Answers of N images: decided classes as codes (N,), sets of classes, bool (N, C), and which are unsure (N,)."""

    predicted: np.ndarray
    candidates: np.ndarray
    unsure: np.ndarray


@dataclass(frozen=True)
class Decisions:
    """The fitted steps of one network, or those that follow the mean of several.

    Attributes:
        classes: Names of the classes.
        steps: In their order.
        rule: Which images are answered; None: all.
        images: Number of images that the steps were fitted on.
    """

    classes: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    rule: Rule | None = None
    images: int = 0

    @classmethod
    def fit(
        cls,
        probabilities: np.ndarray,
        label: np.ndarray,
        classes: Sequence[str],
        options: "DecisionOptions",
        clusters: np.ndarray | None = None,
    ) -> Self:
        """Fit the requested steps on the val part.

        A rule of abstention is fitted on images that fitted no step: with both, the clusters of the val part are
        divided at random into halves.

        Args:
            probabilities: Of the val part, as the network gave them, (N, C).
            label: True classes as codes, (N,).
            classes: Names of the classes.
            options: What is fitted.
            clusters: Clusters of the images, (N,), which stay together; by default each image is one.

        Raises:
            InputError: A probability is not finite, or the val part is too small.
        """
        refuse_not_finite(probabilities, "the val part")
        check_val_part(label, classes, options)
        for_steps, for_rule = np.ones(len(label), bool), np.ones(len(label), bool)
        if options.steps and options.rule:
            for_rule = _half(np.arange(len(label)) if clusters is None else clusters)
            for_steps = ~for_rule
            check_val_part(label[for_steps], classes, replace(options, risk=None, coverage=None))
        values, known = logarithms(probabilities[for_steps]), label[for_steps]
        steps: list[Step] = []
        for name in options.steps:
            steps.append(STEPS[name].fit(values, known))
            values = steps[-1](values)
        fitted = cls(tuple(classes), tuple(steps), None, int(for_steps.sum()) if steps else 0)
        if options.rule is None:
            return fitted
        return fitted.with_rule(fitted.calibrated(probabilities[for_rule]), label[for_rule], options)

    def with_rule(self, probabilities: np.ndarray, label: np.ndarray, options: "DecisionOptions") -> Self:
        """Return the decisions with a rule of abstention, fitted on images of which nothing else was fitted.

        Args:
            probabilities: Calibrated, (N, C).
            label: True classes as codes, (N,).
            options: The rule.
        """
        assert options.rule is not None
        name, stated = options.rule
        predicted = self.decide(probabilities).predicted
        return replace(self, rule=RULES[name].fit(probabilities, predicted, label, stated))

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """Return probabilities (N, C) after the temperature, of those that the network gave; without one, the same."""
        scaling = self.scaling
        return probabilities if scaling is None else softmax(scaling(logarithms(probabilities)))

    def decide(self, probabilities: np.ndarray) -> Decided:
        """Return the answers for calibrated probabilities (N, C)."""
        values = logarithms(probabilities)
        for step in self.steps:
            if not isinstance(step, Temperature):
                values = step(values)
        # without a step the largest probability decides, also where logarithms are cut off
        predicted = (values if self.adjusts else probabilities).argmax(axis=1)
        here = np.arange(probabilities.shape[1]) == predicted[:, None]
        candidates = here if self.rule is None else self.rule.candidates(probabilities, predicted)
        return Decided(predicted, candidates, (candidates != here).any(axis=1))

    @property
    def scaling(self) -> Temperature | None:
        """The temperature, if there is one."""
        return next((step for step in self.steps if isinstance(step, Temperature)), None)

    @property
    def adjusts(self) -> bool:
        """Whether a step can change which class is decided."""
        return any(not isinstance(step, Temperature) for step in self.steps)

    @property
    def alone(self) -> bool:
        """Whether they hold for one network alone, and not for the mean of several: more than a temperature."""
        return self.adjusts or self.rule is not None

    def up_to(self, number: int) -> "Decisions":
        """Return the first steps only, without the rule."""
        return replace(self, steps=self.steps[:number], rule=None)

    def lines(self) -> list[str]:
        """Return one line per step."""
        lines = [step.text(self.classes) for step in self.steps]
        lines[:1] = [f"{line} (fitted on {self.images:,} images of the val part)" for line in lines[:1]]
        return [*lines, *([self.rule.text()] if self.rule is not None else [])]

    def state(self) -> dict[str, Any]:
        """Return plain data, from which `read` makes the decisions again."""
        steps = {step.name: _plain(vars(step)) for step in self.steps}
        rule = {} if self.rule is None else {self.rule.name: _plain(vars(self.rule))}
        return {"classes": list(self.classes), "images": self.images, "steps": steps, "rule": rule}

    @classmethod
    def read(cls, state: Mapping[str, Any] | None, classes: Sequence[str], where: str) -> Self | None:
        """Return the decisions of a model's plain data; None if there are none.

        Args:
            state: What `state` returned.
            classes: The classes of the model.
            where: The file, for messages.

        Raises:
            InputError: They are of another class list, or damaged.
        """
        if not state:
            return None
        try:
            if list(state["classes"]) != list(classes):
                msg = (
                    f"{where}: its decisions are for the classes {', '.join(state['classes'])}, and the model has "
                    f"{', '.join(classes)}; calibrate it again with `emotion calibrate RUN`"
                )
                raise InputError(msg)
            steps = tuple(STEPS[name](**_tuples(values)) for name, values in state["steps"].items())
            rules = [RULES[name](**values) for name, values in state["rule"].items()]
            read = cls(tuple(classes), steps, rules[0] if rules else None, int(state["images"]))
            tried = read.decide(read.calibrated(np.full((1, len(classes)), 1 / len(classes))))
            if tried.candidates.shape != (1, len(classes)) or not _finite(state):
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            msg = f"{where}: its decisions are damaged; calibrate the run again with `emotion calibrate RUN`"
            raise InputError(msg) from error
        return read


@dataclass(frozen=True)
class JointDecisions:
    """What is decided from the mean of several networks; each of them carries it.

    Attributes:
        members: Number of the networks.
        key: Hash of the networks' runs, equal for the networks that belong together.
        decisions: Fitted on calibrated probabilities; they have no temperature of their own.
    """

    members: int
    key: str
    decisions: Decisions

    def state(self) -> dict[str, Any]:
        """Return plain data, from which `read` makes them again."""
        return {"members": self.members, "key": self.key, "decisions": self.decisions.state()}

    @classmethod
    def read(cls, state: Mapping[str, Any] | None, classes: Sequence[str], where: str) -> Self | None:
        """Return the decisions of a model's plain data; None if there are none.

        Raises:
            InputError: As in `Decisions.read`.
        """
        decisions = Decisions.read(state.get("decisions"), classes, where) if state else None
        return None if decisions is None or not state else cls(int(state["members"]), str(state["key"]), decisions)


def fit_decisions(val: pd.DataFrame, options: "DecisionOptions") -> Decisions:
    """Return the decisions that the prediction table of a val part fits.

    Raises:
        InputError: As in `Decisions.fit`.
    """
    probabilities, label = values_of(val)
    return Decisions.fit(probabilities, label, classes_of(val), options, val["cluster"].to_numpy())


def apply_decisions(decisions: Decisions, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the table of decisions of a table of raw predictions."""
    probabilities = decisions.calibrated(values_of(predictions)[0])
    decided = decisions.decide(probabilities)
    return decided_table(predictions, probabilities, decided.predicted, decided.unsure)


def values_of(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities, float64 (N, C), and labels as codes (N,) of a prediction table."""
    classes = classes_of(table)
    label = pd.Index(list(classes)).get_indexer(pd.Index(table["label"]))
    return table[[f"{PROBABILITY}{name}" for name in classes]].to_numpy(np.float64), label


def refuse_not_finite(probabilities: np.ndarray, what: str) -> None:
    """Raise for outputs that are not numbers.

    Raises:
        InputError: There are some.
    """
    wrong = ~np.isfinite(probabilities).all(axis=1)
    if wrong.any():
        msg = (
            f"decisions: the network gives no finite probabilities for {wrong.sum()} of {len(wrong)} images of {what}; "
            "the training may have diverged: lower the learning rate"
        )
        raise InputError(msg)


def _half(clusters: np.ndarray) -> np.ndarray:
    """Return the images of half of the clusters, bool (N,), chosen at random with a fixed seed."""
    numbers = np.unique(clusters, return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(numbers.max() + 1)
    return order[numbers] < (numbers.max() + 1) // 2


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _finite(value: object) -> bool:
    """Return whether all numbers in nested plain data are finite."""
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or bool(np.isfinite(value))
