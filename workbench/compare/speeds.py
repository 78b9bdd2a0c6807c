"""The Compare page's speeds: each draft at its own best gamma, and all at one; measured or predicted, which is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import pandas as pd
import streamlit as st

from engine.deploy.by_gamma import SpeedByGamma, speed_by_gamma
from engine.errors import DraftbenchError
from engine.numbers import has_bounds, times
from engine.records.interval import Interval
from workbench.compare.comparison import Comparison
from workbench.shared import queries, ui

Table = Callable[[pd.DataFrame, str, str, str], None]  # frame, file name, caption, key


def section(comparison: Comparison, table: Table) -> None:
    """The choice of a gamma for all, and the speeds at it and at each draft's own."""
    speeds, damaged = load(comparison)
    for label, why in damaged.items():
        st.warning(f"{ui.text(label)}: {ui.sentence(why)}", icon=":material/broken_image:")
    if not speeds:
        return
    gamma = common_gamma(speeds)
    options = [str(known) for known in gammas(speeds)]
    if options:
        options.sort(key=lambda option: option != str(gamma))
        with st.columns([2, 5])[0]:
            gamma = int(ui.choose_one("One gamma for all", options, {}, "gamma"))
    caption = "Speed-up over plain decoding at each draft's best gamma and at one for all, 95% intervals"
    table(speeds_table(speeds, gamma), "speed-by-gamma", caption, "speed-by-gamma")
    for sentence in remarks(speeds, gamma):
        st.caption(ui.sentence(sentence))


def load(comparison: Comparison, *, kept: bool = True) -> tuple[dict[str, SpeedByGamma], dict[str, str]]:
    """The speeds of the drafts that were timed, by label; and what is wrong with measurements that cannot be read.

    Not `kept` where Streamlit may not be asked for what it keeps.
    """
    speeds: dict[str, SpeedByGamma] = {}
    damaged: dict[str, str] = {}
    for draft in comparison.drafts:
        try:
            if kept:
                one = _cached(str(queries.home().root), draft.id, _stamp(draft.id))
            else:
                one = speed_by_gamma(queries.folder(draft.id))
        except DraftbenchError as error:
            damaged[draft.label] = f"{error.what}. {error.fix}".strip(". ")
            continue
        if one is not None:
            speeds[draft.label] = one
    return speeds, damaged


@st.cache_data(ttl=600, max_entries=256, show_spinner="Predicting speeds ...")
def _cached(root: str, run_id: str, stamp: str) -> SpeedByGamma | None:
    return speed_by_gamma(queries.folder(run_id))


def _stamp(run_id: str) -> str:
    """Changes with the measurement and the step times."""
    measured = queries.folder(run_id).path / "measure"
    paths = [measured / name for name in ("summary.json", "step_times.json", "positions.parquet")]
    return " ".join(str(path.stat().st_mtime_ns) if path.exists() else "-" for path in paths)


def gammas(speeds: Mapping[str, SpeedByGamma]) -> list[int]:
    """The gammas that something tells of every draft."""
    each = [{*one.measured, *one.predicted} for one in speeds.values()]
    return sorted(set.intersection(*each)) if each else []


def common_gamma(speeds: Mapping[str, SpeedByGamma]) -> int | None:
    """Of the gammas that all have, the one at which most were measured, then the smallest; None if there is none."""
    measured = Counter(gamma for one in speeds.values() for gamma in one.measured)
    return min(gammas(speeds), key=lambda gamma: (-measured[gamma], gamma), default=None)


def speeds_table(speeds: Mapping[str, SpeedByGamma], gamma: int | None) -> pd.DataFrame:
    """A row per timed draft: where it was measured, at its own best gamma, and at the gamma for all."""
    rows = []
    for label, one in speeds.items():
        own = next(iter(one.measured))
        rows.append(
            {
                "draft": label,
                "measured": f"{_times(one.measured[own])} at gamma {own}",
                "own best gamma": str(one.best),
                "at its own best gamma": _at(one, one.best),
                **({f"at gamma {gamma}": _at(one, gamma)} if gamma is not None else {}),
                "predicted where it was measured": _times(one.predicted.get(own)),
            }
        )
    return pd.DataFrame(rows)


def _at(one: SpeedByGamma, gamma: int) -> str:
    known = one.at(gamma)
    if known is None:
        return "–"
    speedup, measured = known
    return f"{_times(speedup)} {'measured' if measured else 'predicted'}"


def _times(speedup: Interval | None) -> str:
    return "–" if speedup is None else times(speedup)


def remarks(speeds: Mapping[str, SpeedByGamma], gamma: int | None) -> list[str]:
    """What the predictions rest on, where they miss what was measured, and what was not used."""
    sentences = [f"No gamma is known of all of them: {', '.join(speeds)}."] * (gamma is None)
    by_basis: dict[str, list[str]] = {}
    for label, one in speeds.items():
        if one.basis:
            by_basis.setdefault(one.basis, []).append(label)
        sentences += [f"{label}: {note}." for note in one.notes]
    sentences += [f"Predicted from {basis}: {', '.join(labels)}." for basis, labels in by_basis.items()]
    off = [label for label, one in speeds.items() if _misses(one)]
    if off:
        sentences.append(
            f"The prediction lies outside the measured interval of {', '.join(off)}: trust the measured figure, and "
            "what is predicted at other gammas less."
        )
    return sentences


def _misses(one: SpeedByGamma) -> bool:
    return any(
        gamma in one.predicted and not speedup.low <= one.predicted[gamma].value <= speedup.high
        for gamma, speedup in one.measured.items()
        if has_bounds(speedup)
    )
