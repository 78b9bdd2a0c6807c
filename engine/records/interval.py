"""Measured values: one with its 95% interval over prompts, and one beside what was expected."""

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


@dataclass(frozen=True)
class Calibration:
    """How far what happened lies from what was expected of it (`engine.measure.statistics.calibration_z`)."""

    z: Real = math.nan
    """Standard deviations."""
    p_value: Real = math.nan
    n_tokens: int = 0
    observed: Real = math.nan
    expected: Real = math.nan

    def as_dict(self) -> dict[str, float | int]:
        """The fields by name."""
        return asdict(self)
