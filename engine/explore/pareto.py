"""The runs that no other run beats in every figure: the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from engine.measure.definitions import Better


def front(table: pd.DataFrame, better: Mapping[str, Better]) -> pd.Series[bool]:
    """For each run whether it is on the front of the figures that `better` names with their good direction.

    A run is beaten by one that is at least as good in all of them and better in one; equal runs are both on the front.
    A run without one of the figures is not on it.
    """
    values = table[list(better)].astype(float)
    costs = np.column_stack([-values[name] if way == "higher" else values[name] for name, way in better.items()])
    on_front = np.zeros(len(table), dtype=bool)
    known = np.flatnonzero(np.isfinite(costs).all(axis=1))
    kept = np.empty((0, len(better)))
    for place in known[np.lexsort(costs[known].T[::-1])]:  # best in the first figure first: nothing kept falls later
        cost = costs[place]
        if not ((kept <= cost).all(axis=1) & (kept < cost).any(axis=1)).any():
            on_front[place] = True
            kept = np.vstack([kept, cost])
    return pd.Series(on_front, table.index, dtype=bool)
