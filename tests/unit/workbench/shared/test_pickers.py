"""Which runs a picker offers, in what order and under which names, and which one a page opens on."""

from __future__ import annotations

import pandas as pd
import pytest

from workbench.shared.pickers import SAMPLE, names, offered, opens_on


def runs(*rows: tuple[str, str, bool, bool]) -> pd.DataFrame:
    """Rows of `queries.runs()` with id, state, sample and archived; newest first."""
    frame = pd.DataFrame(rows, columns=["run_id", "state", "sample", "archived"])
    return frame.assign(label=frame.run_id)


def test_own_runs_come_before_samples_each_newest_first():
    known = runs(("s2", "done", True, False), ("new", "done", False, False), ("s1", "done", True, False))
    assert list(offered(known).run_id) == ["new", "s2", "s1"]


def test_archived_runs_are_offered_if_the_address_names_them_or_there_is_nothing_else():
    known = runs(("a", "done", False, True), ("b", "done", False, True), ("c", "done", False, False))
    assert list(offered(known).run_id) == ["c"]
    assert list(offered(known, ["b"]).run_id) == ["b", "c"]
    assert list(offered(known[:2]).run_id) == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("failed", "failed", False, False), ("done", "done", False, False)], "done"),
        ([("done", "done", False, False), ("now", "running", False, False)], "now"),
        ([("failed", "failed", False, False), ("sample", "done", True, False)], "sample"),
        ([("failed", "failed", False, False)], "failed"),
        ([], None),
    ],
)
def test_a_page_opens_on_a_run_that_works(rows: list[tuple[str, str, bool, bool]], expected: str | None):
    assert opens_on(runs(*rows)) == expected


def test_a_sample_says_so_and_equal_names_are_told_apart():
    known = runs(("a", "done", False, False), ("b", "done", False, False), ("s", "done", True, False))
    known["label"] = ["chinese", "chinese", "chinese"]
    assert names(known) == {"a": "chinese (a)", "b": "chinese (b)", "s": f"chinese · {SAMPLE}"}
