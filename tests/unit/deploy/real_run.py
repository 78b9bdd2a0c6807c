"""The measurement of a sample run, and servers that serve its texts: the right way, or with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from engine.deploy.importing import Stated, measurement_of
from engine.deploy.prediction import Predictor
from engine.deploy.readers.reading import Reading
from engine.paths import PROJECT_ROOT
from engine.records.served import RoundTotals, ServedMeasurement, added
from engine.records.summary import Summary

RUN = PROJECT_ROOT / "sample_data" / "runs" / "biology-historical-20261122-150606-8afd"
GAMMA = 3

Chances = np.ndarray
"""How likely each token of a text is proposed and accepted, if it is judged: [token]."""
Change = Callable[[Chances, np.random.Generator], Chances]


@cache
def predictor() -> Predictor:
    """The sample's, with the column that it was made before: where the draft's likeliest token stands in the text.

    Where q is over a third it is taken to be the likeliest; elsewhere it is drawn to be, as often as q says.
    """
    rows = pd.read_parquet(RUN / "measure" / "positions.parquet")
    rows = rows[rows.draft == "trained"].copy()
    drawn = np.random.default_rng(0).random(len(rows)) < rows.q
    rows["hit"] = np.where(rows.temperature == 0, rows.agree, (rows.q > 0.34) | drawn)
    summary = Summary.read(RUN)
    assert summary is not None
    return Predictor("sample", summary.conditions, rows)


def texts(temperature: float, column: str = "hit") -> dict[str, Chances]:
    """By prompt, how likely each token of its text is accepted: 'hit' of argmax proposals, 'kept' of drawn ones."""
    rows = predictor().positions
    rows = rows[(rows.temperature == temperature) & (rows.position > 0)].sort_values(["prompt_id", "position"])
    kept = np.minimum(1.0, rows.q / rows.p.clip(lower=1e-9))
    values = rows.hit.astype(float) if column == "hit" else kept
    return {str(name): part.to_numpy() for name, part in values.groupby(rows.prompt_id)}


def request(
    chances: Chances, rng: np.random.Generator, *, gamma: int = GAMMA, sure: Chances | None = None
) -> RoundTotals:
    """One answer, served. `sure`: of each token, how sure the draft is; under a half it stops proposing."""
    start, rounds, proposed, places = 0, 0, 0, [0] * gamma
    while start < len(chances):
        width = gamma
        if sure is not None:
            width = next((i for i in range(gamma) if start + i < len(sure) and sure[start + i] < 0.5), gamma)
        kept = 0
        while kept < width and start + kept < len(chances) and rng.random() < chances[start + kept]:
            places[kept] += 1
            kept += 1
        rounds, proposed, start = rounds + (width > 0), proposed + width, start + kept + 1
    return RoundTotals(
        requests=1, rounds=rounds, proposed=proposed, accepted=sum(places), accepted_at=places, emitted=len(chances) + 1
    )


def served(
    chances: Sequence[Chances], *, form: str = "vllm", stated: Stated | None = None, seed: int = 1, **how: Any
) -> ServedMeasurement:
    """A server that answered these texts."""
    rng = np.random.default_rng(seed)
    requests = [request(text, rng, **how) for text in chances]
    return of_requests(requests, form=form, stated=stated)


def of_requests(
    requests: Sequence[RoundTotals], *, form: str = "vllm", stated: Stated | None = None
) -> ServedMeasurement:
    """The measurement of some requests."""
    reading = Reading("vllm", "recorded", added(requests), tuple(requests))
    return measurement_of(reading, form, stated or Stated(temperature=1.0, gamma=GAMMA))
