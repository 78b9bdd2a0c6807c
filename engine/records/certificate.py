"""The certificate in a summary: whether the output is still exactly the target's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.records.record import Part, Text, Whole


class Check(Part):
    """One part of the certificate."""

    name: Text = ""
    passed: bool | None = None
    """None for what is only reported."""
    n_tokens: Whole | None = None
    """Tokens that it looked at."""
    detail: Text = ""
    """The result in words."""
    figures: dict[str, Any] = {}
    """Numbers behind the words: others for each check, for people who want to look closer."""


class Certificate(Part):
    """All checks of a pair (`engine.measure.certificate`)."""

    passed: bool | None = None
    """Whether none of the checks failed."""
    checks: list[Check] = []

    @classmethod
    def of(cls, checks: Sequence[Check]) -> Certificate:
        """The certificate of checks; those that only report do not fail it."""
        return cls(passed=all(check.passed is not False for check in checks), checks=list(checks))
