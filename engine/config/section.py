"""What every section of a recipe is, and the marks by which the program knows a key's role beside its type."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, model_validator
from pydantic.fields import FieldInfo

# What a column of the index and a generator of random numbers hold; torch's own seeds go to twice that.
MOST = 2**63 - 1
MOST_TOKENS = 1_000_000  # of an answer, a pass or a vocabulary: beyond any model, and still fit to compute with

# Of the temperatures above 0. Float32 rounds a logit of 20 by 2e-6, which divided by 0.001 is 0.2% of a probability;
# bfloat16 rounds it by 0.06, so that ties alone are left to chance there, and below 1e-37 the quotient is infinite.
LEAST_TEMPERATURE = 0.001

STORED = "stored"  # of a validation's context: true for the recipe of a run that there is already
Values = Mapping[str, Any]  # a recipe as YAML holds it: unchecked, keys may be missing


@dataclass(frozen=True)
class Mark:
    """The role of a key, written beside its type: `seed: Annotated[int, Mark(...)]`.

    affects: "weights" of the draft or its exact acceptance; another "measurement"; only the "pace" at which a machine
        gets there, such as the size of a batch; or nothing, a "label". Two recipes that differ in nothing but the last
        three make the same draft: the identity of a study's cell, and findings, leave these keys out.
    used: whether the other values of its section leave the key any effect; without effect it is left out too.
    path: the key names a "file" or folder, a hub or asset model included, or a "draft": a folder, or a run's id.
    by_hand: a right, or what is sent to whom. Only a person may set it, so a form takes it from no address (URL).
    """

    affects: Literal["weights", "measurement", "pace", "label"] = "weights"
    used: Callable[[Values], bool] = lambda section: True
    path: Literal["file", "draft"] | None = None
    by_hand: bool = False


LABEL, PACE, MEASUREMENT = Mark(affects="label"), Mark(affects="pace"), Mark(affects="measurement")


def used_if(key: str, *values: object) -> Mark:
    """A key that has an effect only where `key` of the same section has one of these values."""
    return Mark(used=lambda section: section.get(key) in values)


def used_unless(key: str, value: object) -> Mark:
    """A key that has no effect where `key` of the same section has this value."""
    return Mark(used=lambda section: section.get(key) != value)


def mark_of(field: FieldInfo) -> Mark:
    """The mark of a schema field; that of a plain key if it has none."""
    return next((item for item in field.metadata if isinstance(item, Mark)), Mark())


def temperature_fault(value: float) -> str:
    """Why nothing can be decoded at this temperature; "" if it can."""
    if value == 0 or LEAST_TEMPERATURE <= value < math.inf:
        return ""
    return f"a temperature is 0, which is greedy, or at least {LEAST_TEMPERATURE}: below it rounding decides"


def _refuse_fault(value: float, info: ValidationInfo) -> float:
    if not (info.context or {}).get(STORED) and (fault := temperature_fault(value)):
        raise ValueError(fault)
    return value


TEMPERATURE = AfterValidator(_refuse_fault)


class Section(BaseModel):
    """A part of a recipe: immutable, and strict about names it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    shorthand: ClassVar[str | None] = None  # the key that a plain text stands for, as in `target: asset:x`

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, values: Any) -> Any:
        """The section that a shorthand stands for. YAML reads yes, on and true alike; as a number each would be 1."""
        if isinstance(values, str) and cls.shorthand:
            return {cls.shorthand: values}
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            inner = value if isinstance(value, list) else [value]
            if field and any(isinstance(each, bool) for each in inner) and not _takes_truth(field.annotation):
                raise ValueError(f"{name} is {str(value).lower()}, which is neither a number nor text")
        return values

    @model_validator(mode="after")
    def _whole_numbers_fit(self) -> Section:
        for name, value in self:
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int) and not isinstance(number, bool) and abs(number) > MOST:
                    raise ValueError(
                        f"{name} must be within 63 bits, from -{MOST} to {MOST}, which is what the index holds"
                    )
        return self


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_truth(part) for part in get_args(annotation))


# One item stands for a list of it.
ONE_OR_MANY = BeforeValidator(lambda value: value if isinstance(value, list) else [value])


def section_of(field: FieldInfo | None) -> type[Section] | None:
    """The section that a field holds, alone, as an option or in a list; None for a plain value."""
    return None if field is None else next(_sections(field.annotation), None)


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)
