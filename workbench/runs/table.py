"""The runs table: filters, order, groups and cells, as pure functions on data frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from engine.numbers import ratio_digits
from engine.paths import Home, run_id_of
from engine.records.folders import run_names
from engine.records.interval import Interval
from workbench.shared.chart_parts import bounds
from workbench.shared.method_names import SUPERVISION, method_name, mode_word

# Columns to filter by, besides tags.
CHOOSABLE = ("state", "domain", "loss", "mode", "supervision", "scenario", "target")
ALL_BUT_SEED = "all settings but the seed"
GROUPS = ("domain", "method", ALL_BUT_SEED, "loss", "target", "scenario", "tag")
NO_GROUP = ""
ONCE_NO_GROUP = "nothing"  # in older addresses and saved views
ARCHIVED = ("hidden", "shown", "only")
UNKNOWN = "–"
GLYPHS = {
    "queued": "◷",
    "running": "▶",
    "done": "✓",
    "failed": "✕",
    "cancelled": "■",
    "interrupted": "↯",
    "damaged": "⚠",
}

# Name of an order in the URL -> column and direction; rows without a value come last.
ORDERS: dict[str, tuple[str, bool]] = {
    "newest": ("created_at", False),
    "oldest": ("created_at", True),
    "name": ("label", True),
    "exact acceptance": ("exact", False),
    "gain": ("gain", False),
    "speed-up": ("speedup", False),
    "state": ("state", True),
}

CSV_COLUMNS = (
    "run_id",
    "title",
    "state",
    "pinned",
    "baseline",
    "archived",
    "tags",
    "notes",
    "domain",
    "scenario",
    "mode",
    "supervision",
    "loss",
    "target",
    "draft_init",
    "seed",
    "temperature",
    "exact",
    "exact_low",
    "exact_high",
    "n_prompts",
    "n_tokens",
    "initial",
    "gain",
    "speedup",
    "speedup_low",
    "speedup_high",
    "certificate",
    "num_draft_tokens",
    "dtype",
    "device",
    "heldout_hash",
    "created_at",
    "folder",
    "problems",
)


@dataclass(frozen=True)
class Filters:
    """A visitor's filters; an empty one matches everything."""

    text: str = ""
    values: tuple[tuple[str, tuple[str, ...]], ...] = ()  # column -> accepted values
    tags: tuple[str, ...] = ()
    archived: str = "hidden"
    condition: str = ""  # over any setting and figure, see `engine.index.expressions`


def prepared(runs: pd.DataFrame) -> pd.DataFrame:
    """The overview with `gain` over the untrained draft, lists instead of arrays, and a dash for unknown labels."""
    frame = runs.reset_index(drop=True)
    frame["gain"] = frame["exact"] - frame["initial"]
    for column in ("tags", "problems"):
        frame[column] = pd.Series([_listed(value) for value in frame[column]], index=frame.index, dtype=object)
    methods = [method_name(*pair) for pair in zip(frame.loss, frame["mode"], strict=True)]
    frame["method"] = pd.Series(methods, index=frame.index, dtype=object).where(frame.loss.notna(), UNKNOWN)
    for column in CHOOSABLE:
        frame[column] = frame[column].astype(object).where(frame[column].notna(), UNKNOWN)
    return frame


def with_unindexed(runs: pd.DataFrame, home: Home) -> pd.DataFrame:
    """`runs` with a row for each folder that the index leaves out because it has no recipe."""
    # by their names: reading a thousand folders takes a while
    missing = sorted({run_id_of(name) for name in run_names(home)} - set(runs.run_id))
    if not missing:
        return runs
    rows = pd.DataFrame({"run_id": missing, "label": missing, "folder": [f"runs/{run_id}" for run_id in missing]})
    rows["state"] = "damaged"
    rows["problems"] = [["config.yaml: missing, so nothing else of the run can be shown"] for _ in missing]
    rows[["pinned", "archived", "baseline", "sample"]] = False
    return pd.concat([runs, rows.reindex(columns=runs.columns).astype(runs.dtypes, errors="ignore")])


def matching(runs: pd.DataFrame, filters: Filters) -> pd.DataFrame:
    """The rows that match every filter. Each word of the text must occur in id, title, a tag or the note."""
    keep = pd.Series(True, index=runs.index)
    if filters.archived != "shown":
        keep &= runs.archived == (filters.archived == "only")
    for column, values in filters.values:
        if values:
            keep &= runs[column].isin(values)
    if filters.tags:
        keep &= pd.Series([bool(set(tags) & set(filters.tags)) for tags in runs.tags], index=runs.index, dtype=bool)
    words = filters.text.casefold().split()
    if words:
        texts = (_searched(row) for row in runs[["run_id", "title", "tags", "notes"]].itertuples(index=False))
        keep &= pd.Series([all(word in text for word in words) for text in texts], index=runs.index, dtype=bool)
    return runs[keep]


def ordered(runs: pd.DataFrame, order: str, group: str | None = None) -> pd.DataFrame:
    """Sort by group if one is given, then pinned runs first, then by the order. The sort is stable."""
    column, ascending = ORDERS[order]
    keyed = runs.assign(_group=_groups(runs, group) if group else "", _pinned=~runs.pinned)
    key: Callable[[Any], Any] = lambda c: c.str.casefold() if c.name == "label" else c  # noqa: E731
    keyed = keyed.sort_values(column, ascending=ascending, key=key, kind="stable", na_position="last")
    return keyed.sort_values(["_group", "_pinned"], kind="stable").drop(columns=["_group", "_pinned"])


def group_summary(runs: pd.DataFrame, group: str, recipes: pd.Series[str]) -> pd.DataFrame:
    """One row per group: number of runs and of measured runs, mean exact acceptance, and the best with interval, n and
    run. `recipes`: by run id a name that runs share which are equal but for the seed (`queries.recipes`). `measured`
    counts the runs that the mean is over: of repetitions of a seed the newest.

    Only where all measured runs of a group share it, the mean has a standard error: it is over seeds, of whose
    repetitions the newest counts. Over different settings it would be no error of anything, and the range of the values
    stands there.

    A group with several domains or temperatures has a row for each, because their rates are not comparable; runs
    without a measurement count in the first. A run with several tags counts in each of their groups.
    """
    spread = _spread(runs, group)
    names = spread.run_id.map(recipes)
    spread = spread.assign(_recipe=names.where(names.notna(), spread.run_id))  # without one it is like no other
    at = spread.temperature.where(spread.exact.notna()).astype(float)
    spread["_at"] = at.fillna(at.groupby([spread["_group"], spread.domain]).transform("min"))
    rows = []
    for (name, domain, temperature), members in spread.groupby(["_group", "domain", "_at"], sort=True, dropna=False):
        measured = members[members.exact.notna()]
        row: dict[str, Any] = {"group": name, "domain": domain, "runs": len(members), "measured": 0}
        if len(measured):
            best = measured.iloc[int(measured.exact.to_numpy().argmax())]
            row |= {"exact": best.exact, "interval": interval(best.exact_low, best.exact_high), "n": best.n_prompts}
            once = measured.sort_values("created_at", kind="stable").drop_duplicates(["_recipe", "seed"], keep="last")
            row |= {"temperature": temperature, "measured": len(once)}
            row |= {"best": best.label, "seeds": once.seed.nunique(), "mean": once.exact.mean()}
            settings = once["_recipe"].nunique()
            row |= {"error": once.exact.sem()} if settings == 1 else {"range": _range(once.exact, settings)}
        rows.append(row)
    columns = ["group", "domain", "temperature", "runs", "measured", "seeds", "mean", "error", "range"]
    return pd.DataFrame(rows, columns=[*columns, "exact", "interval", "n", "best"])


def groups_for_paper(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of the groups with the columns for a table in a paper."""
    titles = {"measured": "measured runs", "mean": "mean exact acceptance", "error": "standard error over seeds"}
    titles |= {
        "temperature": "T",
        "exact": "best exact acceptance",
        "interval": "95% interval of the best",
        "n": "n of the best",
    }
    return summary.drop(columns="best").rename(columns=titles)


def _range(values: pd.Series[float], settings: int) -> str:
    return f"{values.min():.3f}–{values.max():.3f} over {settings} different settings"


def group_names(runs: pd.DataFrame, group: str) -> list[str]:
    """The names of the groups among the rows."""
    return sorted(set(_spread(runs, group)["_group"]))


def in_group(runs: pd.DataFrame, group: str, name: str) -> pd.DataFrame:
    """The rows of one group."""
    spread = _spread(runs, group)
    return spread[spread["_group"] == name].drop(columns="_group")


def with_columns(table: pd.DataFrame, runs: pd.DataFrame, wide: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The table's cells with settings and figures of the wide table beside them, by their names there."""
    known = wide.set_index("run_id").reindex(runs.run_id)
    return table.assign(**{name: known[name].to_numpy() for name in names if name in known})


def choices(runs: pd.DataFrame, column: str) -> list[str]:
    """The values of a column, or all tags, as options."""
    if column == "tags":
        return sorted({tag for tags in runs.tags for tag in tags})
    return sorted({str(value) for value in runs[column]})


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """The cells of the table, by the names in `COLUMNS`. The table renders text literally, so nothing is escaped."""
    return pd.DataFrame(
        {
            "state": [f"{GLYPHS.get(state, '?')} {state}" for state in runs.state],
            "marks": [
                marks(*row)
                for row in zip(runs.baseline, runs.pinned, runs.archived, runs.problems, runs["sample"], strict=True)
            ],
            "label": runs.label,
            "open": "Open",
            "domain": runs.domain,
            "scenario": runs.scenario,
            "loss": runs.loss,
            "mode": [mode_word(word) for word in runs["mode"]],
            "supervision": [SUPERVISION.get(word, word) for word in runs.supervision],
            "exact": runs.exact,
            "interval": [interval(*pair) for pair in zip(runs.exact_low, runs.exact_high, strict=True)],
            "n": runs.n_prompts,
            "temperature": runs.temperature,
            "gain": runs.gain,
            "speedup": runs.speedup,
            "speedup_interval": [
                interval(low, high, digits=ratio_digits(Interval(low=low, high=high)))
                for low, high in zip(runs.speedup_low, runs.speedup_high, strict=True)
            ],
            "certificate": [certificate_word(value) for value in runs.certificate],
            "seed": runs.seed,
            "tags": runs.tags,
            "target": runs.target,
            "created": runs.created_at,
            "notes": [_line(value) for value in runs.notes],
            "problems": ["; ".join(problems) for problems in runs.problems],
            "run": runs.run_id,
        }
    ).reset_index(drop=True)


def for_csv(runs: pd.DataFrame) -> pd.DataFrame:
    """The shown rows with all columns for a spreadsheet; lists become text."""
    frame = runs.reindex(columns=list(CSV_COLUMNS)).copy()
    for column in ("tags", "problems"):
        frame[column] = ["; ".join(values) for values in frame[column]]
    return frame


def for_paper(runs: pd.DataFrame) -> pd.DataFrame:
    """The shown rows with the columns for a table in a paper."""
    columns = ["label", "domain", "scenario", "loss", "mode", "exact", "interval", "n", "temperature", "seed"]
    return cells(runs)[columns].rename(
        columns={"label": "run", "exact": "exact acceptance", "interval": "95% interval", "temperature": "T"}
    )


def marks(baseline: bool, pinned: bool, archived: bool, problems: Sequence[str], sample: bool = False) -> str:
    """'★ baseline, ● pinned': the marks set by hand, a sample's, and a warning for an incomplete folder."""
    present = {
        "★ baseline": baseline,
        "● pinned": pinned,
        "▣ archived": archived,
        "⚠ incomplete": bool(problems),
        "◇ sample": sample,
    }
    return ", ".join(mark for mark, holds in present.items() if holds)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """'[0.270, 0.304]', or a dash if there is no interval."""
    return bounds(low, high, digits) or UNKNOWN


def certificate_word(passed: Any) -> str:
    """The outcome of the losslessness certificate as a mark and a word."""
    if passed is None or pd.isna(passed):
        return UNKNOWN
    return "✓ passed" if passed else "✕ failed"


def _listed(value: Any) -> list[str]:
    """A list column of the index: an array, or None or NaN for a run without one."""
    return [] if value is None or isinstance(value, float) else [str(item) for item in value]


def _searched(row: Any) -> str:
    return " ".join(
        str(part) for part in (row.run_id, row.title, *row.tags, row.notes) if isinstance(part, str)
    ).casefold()


def _line(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _groups(runs: pd.DataFrame, group: str) -> list[str]:
    """The group of each row; for tags, the first one."""
    if group == "tag":
        return [tags[0] if tags else UNKNOWN for tags in runs.tags]
    return [str(value) for value in runs[group]]


def _spread(runs: pd.DataFrame, group: str) -> pd.DataFrame:
    """The rows with a column `_group`; grouped by tag, a row is repeated for each of its tags."""
    if group != "tag":
        return runs.assign(_group=_groups(runs, group))
    groups = pd.Series([tags or [UNKNOWN] for tags in runs.tags], index=runs.index, dtype=object)
    return runs.assign(_group=groups).explode("_group")
