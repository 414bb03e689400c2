"""Speed measured as ratios, each beside a plain reference in the same run."""

import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

COMPARISONS = {">=": operator.ge, "<=": operator.le, "=": operator.eq}


@dataclass(frozen=True)
class Figure:
    """A measured number and its target.

    Attributes:
        name: Name in the table and in the file.
        value: None where it was not measured; ``about`` then gives the reason.
        about: What was divided by what.
        target: A comparison, such as ``>= 0.95``; empty for a number without a target.
        detail: Settings and seconds behind the number.
    """

    name: str
    value: float | None
    about: str
    target: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a number or a target."""
        if self.value is None or not self.target:
            return None
        comparison, limit = self.target.split()
        return bool(COMPARISONS[comparison](self.value, float(limit)))


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median ratio of repeats that were measured in turns, so that a slow minute hits both alike."""
    return statistics.median(one / other for one, other in zip(numerators, denominators, strict=True))
