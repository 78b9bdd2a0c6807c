"""Slices of a run by what its folder holds, alone or against another run: what `draftbench slices` and Compare show."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from engine.errors import DraftbenchError
from engine.measure.compare import (
    ON_TARGET_TEXT,
    SAME_TEMPERATURE,
    blocking,
    differing_conditions,
    nothing_in_common,
    prompt_sums,
    same_answers,
)
from engine.measure.definitions import RATES
from engine.runs.folder import RunFolder
from engine.slices.reading import token_reader
from engine.slices.slices import Sliced, SliceDifference, differences, sliced
from engine.slices.tokens import Kinds, Origin, measured_temperatures, measured_tokens

DEFAULT_BY = "kind"
DEFAULT_RATE = "exact"


@dataclass(frozen=True)
class SlicedRuns:
    """The slices of run a; with a run b also of that, and the paired differences, b less a."""

    a: str
    sliced: Sliced
    notes: tuple[str, ...] = ()
    b: str | None = None
    sliced_b: Sliced | None = None
    differences: tuple[SliceDifference, ...] = ()
    n_paired: int = 0
    """Prompts that the target answered with the same tokens in both."""
    blocked_by: dict[str, tuple[Any, Any]] | None = None
    """Conditions that differ and forbid comparing, with the values of a and of b."""

    def document(self) -> dict[str, Any]:
        """The JSON object that `draftbench slices --json` prints."""
        return asdict(self)


def slices_of_run(
    run: RunFolder, *, by: str = DEFAULT_BY, rate: str = DEFAULT_RATE, temperature: float | None = None
) -> SlicedRuns:
    """A rate of a run's trained draft by slice; at the lowest measured temperature unless another is named.

    Raises DraftbenchError if the measurement does not hold what is asked for.
    """
    origin, at = origin_of(run), _temperature(run, temperature)
    tokens = measured_tokens(origin, rate, at, by)
    return SlicedRuns(run.id, sliced(tokens, by, rate, at), _notes(run, by, rate, at))


def slices_against(
    a: RunFolder, b: RunFolder, *, by: str = DEFAULT_BY, rate: str = DEFAULT_RATE, temperature: float | None = None
) -> SlicedRuns:
    """The slices of two runs and their differences, b less a, paired on prompts with the same answer of the target.

    Where the runs were measured under conditions that the rate depends on, there are no differences but `blocked_by`.
    Raises DraftbenchError as `slices_of_run`, and if no answer is common.
    """
    at = _temperature(a, temperature)
    alone = slices_of_run(a, by=by, rate=rate, temperature=at)
    tokens = [measured_tokens(origin_of(run), rate, at, by) for run in (a, b)]
    prompts = _same_prompts(a, b, at)
    if prompts.empty:
        raise nothing_in_common()
    differing = differing_conditions(a.summary().conditions, b.summary().conditions)
    blocked = {key: differing[key] for key in blocking(rate, differing)}
    return SlicedRuns(
        a.id,
        alone.sliced,
        alone.notes,
        b.id,
        sliced(tokens[1], by, rate, at),
        () if blocked else tuple(differences(tokens[0], tokens[1], rate, prompts)),
        len(prompts),
        blocked or None,
    )


def origin_of(run: RunFolder) -> Origin:
    """What slicing needs of a run. Raises DraftbenchError if it was not measured."""
    run.summary()  # says what to do about a run without a measurement
    domain = ""
    with contextlib.suppress(DraftbenchError):  # a damaged recipe only costs the names that depend on it
        domain = run.recipe().prompts.domain

    def kinds() -> Kinds:
        return token_reader(run.recipe().target).kinds

    return Origin(run.path / "measure", domain, kinds)


def _temperature(run: RunFolder, temperature: float | None) -> float:
    run.summary()
    known = measured_temperatures(run.path / "measure")
    if temperature is None:
        return known[0]
    near = [t for t in known if abs(t - temperature) < SAME_TEMPERATURE]
    if not near:
        raise DraftbenchError(
            f"run {run.id} was not measured at temperature {temperature:g}",
            "",
            f"give --temperature, one of: {', '.join(f'{t:g}' for t in known)}",
        )
    return near[0]


def _same_prompts(a: RunFolder, b: RunFolder, temperature: float) -> pd.Index:
    sides = []
    for run in (a, b):
        table = prompt_sums(run.path / "measure")
        sides.append(table[(table.temperature - temperature).abs() < SAME_TEMPERATURE].set_index("prompt_id"))
    return same_answers(*sides)[0].index


def _notes(run: RunFolder, by: str, rate: str, temperature: float) -> tuple[str, ...]:
    """What to know about the figures: that parts of some answers are not measured, or a definition to remember."""
    notes = []
    partial = _answers_with_gaps(run, temperature) if by == "kind" else 0
    if partial:
        notes.append(
            f"of {partial} answers only the tokens are measured whose probability the server told: the kinds of the "
            "others' neighbours are read without them"
        )
    if RATES[rate].per_forward:
        notes.append("a target forward belongs to the last token of its round, the one that it was needed for")
    elif rate not in ON_TARGET_TEXT and by in ("kind", "position"):
        notes.append("a refused token belongs to the slice of the token that the answer has in its place")
    return tuple(notes)


def _answers_with_gaps(run: RunFolder, temperature: float) -> int:
    if run.summary().conditions.served_by is None:
        return 0
    table = pd.read_parquet(
        run.path / "measure" / "positions.parquet", columns=["draft", "temperature", "prompt_id", "position"]
    )
    table = table[(table.draft == "trained") & ((table.temperature - temperature).abs() < SAME_TEMPERATURE)]
    places = table.groupby("prompt_id").position.agg(["max", "count"])
    return int((places["max"] + 1 != places["count"]).sum())
