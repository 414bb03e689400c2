"""Numbers of an explanation as people read them; nothing where there is none."""

import math


def number(value: float) -> str:
    """Return a number as people read it; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:.3f}"


def signed(value: float) -> str:
    """Return a difference as people read it; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:+.3f}"


def span(low: float, high: float, *, sign: bool = False) -> str:
    """Return an interval as people read it; nothing where there is none."""
    shown = signed if sign else number
    return "" if math.isnan(low) else f"{shown(low)} to {shown(high)}"
