"""A measured value with its 95% interval over prompts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from engine.records.record import Real


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap interval; `low` and `high` are NaN where none can be made, as of a single prompt."""

    value: Real = math.nan
    low: Real = math.nan
    high: Real = math.nan
    n_prompts: int = 0
    """Prompts that were resampled."""

    def as_dict(self) -> dict[str, float | int]:
        """The fields by name."""
        return asdict(self)
