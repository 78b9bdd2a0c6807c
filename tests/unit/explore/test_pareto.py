"""The Pareto front against its definition, written out over all pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.explore.pareto import front
from engine.measure.definitions import Better


def by_definition(table: pd.DataFrame, better: dict[str, Better]) -> list[bool]:
    """Not beaten: no other run is at least as good everywhere and better somewhere."""
    signs = {name: 1.0 if way == "higher" else -1.0 for name, way in better.items()}
    good = [[sign * row[name] for name, sign in signs.items()] for _, row in table.iterrows()]
    return [
        all(np.isfinite(one))
        and not any(
            all(o >= v for o, v in zip(other, one, strict=True)) and any(o > v for o, v in zip(other, one, strict=True))
            for other in good
        )
        for one in good
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ways", [("higher", "lower"), ("lower", "lower"), ("higher", "lower", "higher")])
def test_the_front_is_what_no_run_beats(ways: tuple[Better, ...], seed: int):
    rng = np.random.default_rng(seed)
    better = dict(zip("abc", ways, strict=False))
    table = pd.DataFrame(rng.integers(0, 6, (40, len(ways))).astype(float), columns=list(better))  # with ties
    table.iloc[3, 0] = np.nan
    assert list(front(table, better)) == by_definition(table, better)


def test_equal_runs_are_both_on_it_and_a_run_without_a_figure_is_not():
    table = pd.DataFrame({"acceptance": [0.5, 0.5, 0.4, None], "seconds": [10, 10, 20, 1]}, index=[7, 8, 9, 10])
    assert list(front(table, {"acceptance": "higher", "seconds": "lower"})) == [True, True, False, False]
