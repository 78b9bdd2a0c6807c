"""What a server should count of a run's draft, from the run's own measurement, before any server is started.

`engine.measure.text_rounds` walks over the held-out texts. A server gets the first token of an answer by reading the
prompt, before the draft proposes anything, so its rounds begin at the second token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from engine.catalogue import SERVERS, Proposals
from engine.errors import DraftbenchError, boundary
from engine.measure.text_rounds import TextRounds, predicted_rounds
from engine.records.summary import Conditions, Summary

_COLUMNS = ["prompt_id", "position", "p", "q"]
_PROPOSES_TO_THE_END = frozenset({"vllm", "sglang", "tensorrt-llm"})
"""Servers that propose gamma tokens also where fewer may still be emitted."""


@dataclass(frozen=True)
class Prediction:
    """The expected rounds of a run's held-out prompts under one rule of one server."""

    temperature: float
    proposals: Proposals
    gamma: int
    rounds: Mapping[str, TextRounds]
    """By prompt id; `emitted` without the first token of an answer."""

    @property
    def mean_answer_tokens(self) -> float:
        """Tokens of an answer on average, the first one included."""
        return 1 + sum(text.emitted for text in self.rounds.values()) / len(self.rounds)


@dataclass(frozen=True)
class Predictor:
    """The measurement of a run's trained draft, from which any prediction follows.

    `positions`: the rows of the trained draft of `measure/positions.parquet`.
    """

    run_id: str
    conditions: Conditions
    positions: pd.DataFrame
    _made: dict[tuple[float, Proposals, int, bool], Prediction] = field(default_factory=dict, compare=False)

    @classmethod
    def of_run(cls, folder: Path, run_id: str) -> Predictor:
        """Read a run's measurement. Raises DraftbenchError if it has none or is damaged."""
        again = f"measure it: `draftbench measure {run_id}`"
        summary, path = Summary.read(folder), folder / "measure" / "positions.parquet"
        if summary is None or not path.is_file():
            raise DraftbenchError(
                f"run {run_id} has no measurement", "there is nothing to compare a server with", again
            )
        with boundary(f"{path} is damaged", again):
            table = pd.read_parquet(path)
            rows = table[table.draft == "trained"]
            missing = [name for name in ("temperature", *_COLUMNS) if name not in table]
        if missing or not len(rows):
            raise DraftbenchError(f"{path} has no rows of the trained draft", "it is of another version", again)
        return cls(run_id, summary.conditions, rows)

    @cached_property
    def temperatures(self) -> list[float]:
        """Those it was measured at, rising."""
        return sorted(float(value) for value in self.positions.temperature.unique())

    def predict(self, server: str, temperature: float, proposals: Proposals, gamma: int) -> Prediction:
        """What that server should count. Raises DraftbenchError where the measurement cannot say it."""
        to_the_end = server in _PROPOSES_TO_THE_END
        key = (temperature, proposals, gamma, to_the_end)
        if key not in self._made:
            self._made[key] = self._predict(temperature, proposals, gamma, to_the_end=to_the_end)
        return self._made[key]

    def _predict(self, temperature: float, proposals: Proposals, gamma: int, *, to_the_end: bool) -> Prediction:
        rows = self.positions[self.positions.temperature == temperature]
        if not len(rows):
            known = " and ".join(f"{value:g}" for value in self.temperatures)
            raise DraftbenchError(
                f"run {self.run_id} was measured at temperature {known}, not at {temperature:g}",
                "acceptance depends on the temperature",
                f"ask the server at {known}, or measure a run with `--set measure.temperatures=[{temperature:g}]`",
            )
        limit = None if to_the_end else self.conditions.max_new_tokens
        after_first = rows[rows.position > 0].assign(position=rows.position - 1)
        if limit is not None:
            after_first = _without_last(after_first, limit - 1)
        # at temperature 0 both rules propose the likeliest token, and older measurements know no other
        rule: Proposals = "sampled" if temperature == 0 else proposals
        try:
            rounds = predicted_rounds(after_first, gamma, rule, limit=None if limit is None else limit - 1)
        except DraftbenchError as error:
            raise DraftbenchError(error.what, error.why, error.fix.replace("RUN", self.run_id)) from None
        if not rounds:
            raise DraftbenchError(
                f"every answer of run {self.run_id} at temperature {temperature:g} has one token",
                "no round is needed for one",
                "measure on prompts with longer answers",
            )
        return Prediction(temperature, proposals, gamma, rounds)


def _without_last(rows: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Without the last token of answers that reach the limit: nothing is proposed for it, so it is no round."""
    return rows[rows.position < limit - 1]


def default_proposals(server: str) -> Proposals | None:
    """How a server proposes unless told otherwise; None for an unknown one."""
    return SERVERS[server].proposals[0] if server in SERVERS else None
