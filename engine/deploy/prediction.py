"""What a server should count of a run's draft, from the run's own measurement, before any server is started.

The held-out texts are walked over by the server's own rule (`engine.deploy.server_rounds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from engine.catalogue import SERVERS, Proposals
from engine.deploy.server_rounds import ServerRule, rule_of
from engine.errors import DraftbenchError, boundary
from engine.measure.text_rounds import TextRounds, acceptance_chances
from engine.records.summary import Conditions, Summary

_COLUMNS = ["prompt_id", "position", "p", "q"]


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
    _made: dict[tuple[float, Proposals, int, ServerRule], Prediction] = field(default_factory=dict, compare=False)

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
            raise DraftbenchError(f"{path} has no rows of the trained draft", "it was made by another version", again)
        return cls(run_id, summary.conditions, rows)

    @cached_property
    def temperatures(self) -> list[float]:
        """Those it was measured at, rising."""
        return sorted(float(value) for value in self.positions.temperature.unique())

    def predict(self, server: str, temperature: float, proposals: Proposals, gamma: int) -> Prediction:
        """What that server should count. Raises DraftbenchError where the measurement cannot say it."""
        rule = rule_of(server)
        key = (temperature, proposals, gamma, rule)
        if key not in self._made:
            self._made[key] = self._predict(temperature, proposals, gamma, rule)
        return self._made[key]

    def _predict(self, temperature: float, proposals: Proposals, gamma: int, rule: ServerRule) -> Prediction:
        rows = self.positions[self.positions.temperature == temperature]
        if not len(rows):
            known = " and ".join(f"{value:g}" for value in self.temperatures)
            raise DraftbenchError(
                f"run {self.run_id} was measured at temperature {known}, not at {temperature:g}",
                "acceptance depends on the temperature",
                f"ask the server at {known}, or measure a run with `--set measure.temperatures=[{temperature:g}]`",
            )
        # at temperature 0 both rules propose the likeliest token, and older measurements know no other
        rated: Proposals = "sampled" if temperature == 0 else proposals
        try:
            chances = acceptance_chances(rows, rated)
        except DraftbenchError as error:
            raise DraftbenchError(error.what, error.why, error.fix.replace("RUN", self.run_id)) from None
        longest = max(map(len, chances.values()))
        limit = max(longest, self.conditions.max_new_tokens or longest)
        walked = {name: rule.over(values, gamma, limit=limit) for name, values in chances.items()}
        rounds = {name: text for name, text in walked.items() if text.emitted}
        if not rounds:
            raise DraftbenchError(
                f"every answer of run {self.run_id} at temperature {temperature:g} has one token",
                "no round is needed for one",
                "measure on prompts with longer answers",
            )
        return Prediction(temperature, proposals, gamma, rounds)


def default_proposals(server: str) -> Proposals | None:
    """How a server proposes unless told otherwise; None for an unknown one."""
    return SERVERS[server].proposals[0] if server in SERVERS else None
