"""A measured value with its 95% interval over prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.records.record import Real


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap interval; `low` and `high` are NaN without one, as for a single prompt."""

    value: Real = math.nan
    low: Real = math.nan
    high: Real = math.nan
    n_prompts: int = 0
    """Prompts that were resampled."""

    @classmethod
    def of(cls, numbers: Mapping[str, Any] | None) -> Interval:
        """The interval in a JSON object that holds it among other things; undefined without one."""
        known = {key: value for key, value in (numbers or {}).items() if key in cls.__dataclass_fields__}
        return cls(**{key: value for key, value in known.items() if value is not None})

    def as_dict(self) -> dict[str, float | int]:
        """The fields by name."""
        return asdict(self)
