"""95 % intervals of what a figure shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z = 1.96
# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; from 31 on an expansion of it is good to three digits.
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def wilson_interval(mean: float, count: int, z: float = Z) -> tuple[float, float]:
    """Of a success rate (Wilson 1927): honest for few samples and at 0 and 1."""
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count))
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))  # rounding at 0 and 1


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean of a few independent values, by Student's t; NaN for a single one, which says nothing of its spread."""
    count = len(values)
    if count < 2:
        return math.nan, math.nan
    mean = sum(values) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    half = _student(count - 1) * deviation / math.sqrt(count)
    return mean - half, mean + half


def _student(freedom: int) -> float:
    return STUDENT[freedom - 1] if freedom <= len(STUDENT) else Z + 2.4 / freedom


def correlation_interval(correlation: float, count: int) -> tuple[float, float]:
    """Of Pearson's r, by Fisher's z; NaN for fewer than four pairs or a perfect line."""
    if count < 4 or not abs(correlation) < 1:
        return math.nan, math.nan
    middle, half = math.atanh(correlation), Z / math.sqrt(count - 3)
    return math.tanh(middle - half), math.tanh(middle + half)
