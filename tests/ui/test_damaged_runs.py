"""Pages of a home with twenty runs damaged in different ways: the intact ones are shown, and so is the damage."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from engine.errors import DraftbenchError
from engine.jobs import queue
from engine.paths import home, run_id_of
from engine.runs.listing import list_runs
from tests.ui.conftest import OpenPage
from tests.ui.run_homes import finished_id

Damage = Callable[[Path], object]


def written(name: str, content: str | bytes) -> Damage:
    return lambda run: (run / name).write_bytes(content.encode() if isinstance(content, str) else content)


def changed(name: str, **values: object) -> Damage:
    return lambda run: (run / name).write_text(json.dumps({**json.loads((run / name).read_text()), **values}))


def replaced(name: str, make: Callable[[Path], object]) -> Damage:
    def damage(run: Path) -> None:
        (run / name).unlink()
        make(run / name)

    return damage


def edited(old: str, new: str) -> Damage:
    def damage(run: Path) -> None:
        text = (run / "config.yaml").read_text()
        assert old in text
        (run / "config.yaml").write_text(text.replace(old, new, 1))

    return damage


def columns(name: str, value: object, kinds: str) -> Damage:
    def damage(run: Path) -> None:
        path = run / "measure" / name
        frame = pd.read_parquet(path)
        frame.assign(**{c: value for c in frame if frame[c].dtype.kind in kinds}).to_parquet(path)

    return damage


DAMAGES: dict[str, Damage] = {
    "empty-recipe": written("config.yaml", ""),
    "cut-recipe": written("config.yaml", "train: {mode: off"),
    "no-recipe": lambda run: (run / "config.yaml").unlink(),
    "huge-seed": edited("checkpoint_every: 1\n  seed: 0", "checkpoint_every: 1\n  seed: 18446744073709551615"),
    "endless-pid": written("status.json", '{"state": "running", "pid": 1e999, "pid_started": 1}'),
    "brackets": written("status.json", "[" * 100_000),
    "odd-progress": written("status.json", '{"state": "running", "progress": [1], "created_at": {}, "error": 5}'),
    "odd-state": written("status.json", '{"state": ["done"]}'),
    "surrogate": written(
        "labels.json", '{"title": "\\ud800 title", "tags": ["\\udfff", [1], {"a": null}], "notes": 5}'
    ),
    "listed-labels": written("labels.json", "[1]"),
    "folder-for-status": replaced("status.json", lambda path: path.mkdir()),
    "link-to-itself": replaced("status.json", lambda path: path.symlink_to(path.name)),
    "pipe": replaced("measure/summary.json", os.mkfifo),
    "odd-summary": changed(
        "measure/summary.json", metrics={}, conditions=[1], certificate=[], speed="fast", improvement=7
    ),
    "odd-provenance": changed("provenance.json", prompts=[1], measurement=[1], versions=7, machine=[], source="x"),
    "odd-training": changed("training.json", steps_done="many", tokens_seen=[1], best_step={}),
    "odd-events": written(
        "events.jsonl", '{"kind": ["train"], "step": {}}\n{"kind": "train", "step": 1e999, "loss": []}\n7\n'
    ),
    "cut-table": lambda run: (run / "measure" / "prompts.parquet").write_bytes(b"PAR1"),
    "infinite-table": columns("prompts.parquet", float("inf"), "f"),
    "beyond-table": columns("positions.parquet", 1e30, "i"),
    "odd name (copy)": lambda run: None,
    "nowhere": lambda run: (shutil.rmtree(run), run.symlink_to("nowhere")),
}
# nothing is wrong with the first two; values of tables are looked at when they are asked for
READ_WHOLE = {"odd name (copy)", "surrogate", "infinite-table", "beyond-table"}


@pytest.fixture
def damaged(finished_home: Path) -> str:
    """A finished run and copies of it, each damaged; returns the finished one's id."""
    done = finished_id(finished_home)
    for name, damage in DAMAGES.items():
        folder = Path(shutil.copytree(finished_home / "runs" / done, finished_home / "runs" / name))
        damage(folder)
    return done


def text_of(test: AppTest) -> str:
    return " ".join(str(part.value) for part in (*test.markdown, *test.caption, *test.warning))


def test_every_run_is_in_the_list_of_the_command_and_of_the_page(damaged: str, page: OpenPage):
    expected = {damaged, *(run_id_of(name) for name in DAMAGES)}
    rows = {row["run"]: row for row in list_runs(home())}
    assert set(rows) == expected
    assert all(row["problem"] for row in rows.values() if row["state"] == "damaged")
    assert rows[damaged]["state"] == "done"
    shown = page("runs").dataframe[-1].value.set_index("run")
    assert set(shown.index) == expected
    assert shown.loc[damaged, "state"] == "✓ done"
    assert shown.loc["empty-recipe", "state"] == "⚠ damaged"
    assert "config.yaml" in shown.loc["empty-recipe", "problems"]
    assert queue.waiting(home()) == []
    assert queue.at_work(home()) is None


@pytest.mark.parametrize("name", ["home", "findings", "compare", "launch", "replay"])
def test_a_page_that_looks_at_all_runs_is_drawn(damaged: str, page: OpenPage, name: str):
    drawn = page(name)
    assert not drawn.error, [error.value for error in drawn.error]


def test_damaged_runs_compete_with_nobody(damaged: str, page: OpenPage):
    assert "Best draft" in " ".join(part.value for part in page("home").subheader)


@pytest.mark.parametrize("name", DAMAGES)
def test_the_page_of_a_damaged_run_says_what_is_wrong(damaged: str, page: OpenPage, name: str):
    drawn = page("run", run=run_id_of(name))
    if name not in READ_WHOLE:
        assert "incomplete" in text_of(drawn) or drawn.error


@pytest.mark.parametrize("name", ["odd-summary", "odd-provenance", "odd-training", "infinite-table", "beyond-table"])
def test_a_damaged_run_can_be_set_beside_a_whole_one(damaged: str, page: OpenPage, name: str):
    try:
        page("compare", runs=f"{damaged},{name}")
    except DraftbenchError:
        pytest.fail("a page shows errors, it does not raise them")
