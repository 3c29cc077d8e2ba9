"""What is said of repeated measurements: median, minimum, quartiles and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Sample(NamedTuple):
    """One measurement: what the clock said, and the processor time of all processes; seconds."""

    seconds: float
    cpu: float = 0.0


class Summary(NamedTuple):
    """Repeated measurements of one thing; seconds.

    low, high: the quartiles, so half of all measurements lie between them. cpu: the median.
    """

    rounds: int
    median: float
    minimum: float
    low: float
    high: float
    cpu: float


def summarize(samples: Sequence[Sample]) -> Summary:
    """Return the summary; raises ValueError where nothing was measured."""
    if not samples:
        raise ValueError("nothing was measured")
    values = [sample.seconds for sample in samples]
    low, high = _quartiles(values)
    return Summary(
        rounds=len(values),
        median=statistics.median(values),
        minimum=min(values),
        low=low,
        high=high,
        cpu=statistics.median(sample.cpu for sample in samples),
    )


def ratio(value: float, reference: float) -> float:
    """Return how many times the reference a value is; raises ValueError for a reference of 0."""
    if reference <= 0:
        raise ValueError("a ratio needs a reference above 0")
    return value / reference


def ratio_of_differences(value: float, reference: float) -> float | None:
    """Return the ratio, or None where noise has made one of two differences nothing or less."""
    return ratio(value, reference) if value > 0 and reference > 0 else None


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
