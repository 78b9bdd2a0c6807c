"""Runs by a condition: any setting and rate, texts in either quotes, and no way out of the table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.config.reading import parse_recipe
from engine.errors import DraftbenchError
from engine.index import expressions
from engine.index.connection import reading
from engine.index.expressions import matching_runs, wide_table
from engine.index.ingest import ingest_all
from engine.paths import PROJECT_ROOT, Home, home
from engine.runs.folder import RunFolder
from tests.unit.conftest import Draftbench

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run_id": NAMES,
            "domain": ["chinese", "biology", "chinese", None],
            "exact": [0.5, 0.45, 0.3, np.nan],
            "train.seed": [0, 1, 2, 3],
            "capture.batch_size": ["auto", 8, 8, None],
            "train.online.order": ["as_given", None, None, None],
            "title": ["it's", 'say "x"', None, ""],
            "created_at": pd.to_datetime(["2026-01-04", "2026-01-03", "2026-01-02", "2026-01-01"]),
            "certificate": [True, False, None, None],
            "tags": [["x"], [], [], []],
        }
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('exact > .4 and domain = "chinese"', ["a"]),
        ("exact > .4 and domain = 'chinese'", ["a"]),
        ("EXACT > 0.4", ["a", "b"]),
        ("exact > 0", ["a", "b", "c"]),  # no value is not larger than all others
        ("exact is null", ["d"]),
        ("train.seed >= 1 and train.seed < 3", ["b", "c"]),
        ('"train.seed" = 3', ["d"]),
        ("train.online.order = 'as_given'", ["a"]),
        ("capture.batch_size = 'auto'", ["a"]),
        ("capture.batch_size = '8'", ["b", "c"]),
        ("title = 'it''s'", ["a"]),
        ("title = 'train.seed'", []),  # a text, not the setting
        ("domain in ('biology', \"chinese\") and not (exact < .4)", ["a", "b"]),
        ("created_at < timestamp '2026-01-03'", ["c", "d"]),
        ("certificate", ["a"]),
        ("domain like '%o%' -- a remark", ["b"]),
    ],
)
def test_a_condition(table: pd.DataFrame, expression: str, expected: list[str]):
    assert matching_runs(table, expression) == expected


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("train.sed = 1", "no run has a setting or figure 'train.sed'"),
        ("exat > 1", "no run has a setting or figure 'exat'"),
        ("exact >", "something is missing at its end"),
        ("(exact >) and certificate", "something is missing before a bracket"),
        ("(exact > 1", "its brackets do not match"),
        ("exact > 1)", "its brackets do not match"),
        ("domain = 'a", "a quote or bracket is not closed"),
        ("exact >> > 1", "it cannot be read at '>'"),
        ("lowr(domain) = 'x'", "there is no function 'lowr'"),
        ("sum(exact) > 1", "a condition is asked of each run"),
        ("domain = chinese", "it is a value of 'domain'"),
        ("", "it is empty"),
        ("exact > .4; drop table runs", "it cannot be read at ';'"),
        ("1=1) union select domain from runs --", "its brackets do not match"),
        ("exact > (select count(*) from read_csv('/etc/passwd'))", "can open no file"),
        ("run_id in (select * from glob('/*'))", "can open no file"),
        ("(select count(*) from table) > 0", "it cannot be read at 'table'"),
        ("(select count(*) from expected) > 0", "there is no table 'expected'"),
        ("exact > 'much'", "'much' is a text"),
        ("capture.batch_size = 8", "'auto' is a text"),  # a column of texts and numbers is one of texts
    ],
)
def test_what_cannot_be_evaluated_says_why(table: pd.DataFrame, expression: str, why: str):
    with pytest.raises(DraftbenchError) as caught:
        matching_runs(table, expression)
    assert why in caught.value.why
    assert caught.value.fix
    assert not any(word in str(caught.value) for word in ("Error:", "LINE", "ORDER", "Candidate")), (
        "the database's words"
    )


def test_a_misspelt_setting_is_corrected(table: pd.DataFrame):
    with pytest.raises(DraftbenchError) as caught:
        matching_runs(table, "train.sed = 1")
    assert "did you mean 'train.seed'?" in caught.value.fix


def test_a_text_without_quotes_is_no_misspelt_setting(table: pd.DataFrame):
    with pytest.raises(DraftbenchError) as caught:
        matching_runs(table.assign(archived=False), "domain = chinese")
    assert caught.value.fix == 'write "chinese" in quotes: it is a text'


def test_no_expression_takes_long(table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.index.expressions._MOST_S", 0.2)
    with pytest.raises(DraftbenchError) as caught:
        matching_runs(table, "(select count(*) from range(100000000000)) > 1")
    assert "takes longer" in caught.value.why
    with pytest.raises(DraftbenchError, match="more than 2,000 characters"):
        matching_runs(table, "1 = 1 and " * 300)


def test_the_wide_table_has_settings_and_rates_of_real_runs(tmp_path: Path):
    home = Home(tmp_path)
    home.runs.mkdir()
    for name in ("serve-biology-20261122-183032-c638", "first-biology-curated-forward-kl-200-20261122-170335-b79d"):
        (home.runs / name).symlink_to(PROJECT_ROOT / "sample_data" / "runs" / name)
    ingest_all(home)
    with reading(home.index) as con:
        wide = wide_table(con)
    assert wide.columns.is_unique
    served = wide.set_index("run_id").loc["serve-biology-20261122-183032-c638"]
    recipe = RunFolder(home.runs / served.name).recipe()
    assert served["train.learning_rate"] == recipe.train.learning_rate
    assert served["prompts.domain"] == "biology"
    assert served["exact_0"] == served["exact"]
    assert 0 < served["argmax_1"] < served["exact_1"] < 1
    assert matching_runs(wide, "argmax_1 < exact_1 and measure.speed_prompts > 0") == [served.name]


@pytest.mark.slow
def test_the_command_lists_what_fulfils_it(draftbench: Draftbench, finished_home: Path):
    (row,) = draftbench("runs", "--json").json()
    domain = row["domain"]
    assert [r["run"] for r in draftbench("runs", "--where", f'domain = "{domain}"', "--json").json()] == [row["run"]]
    assert draftbench("runs", "--where", "train.epochs > 1000", "--json").json() == []
    assert "no run fulfils the condition" in draftbench("runs", "--where", "train.epochs > 1000").out
    wrong = draftbench("runs", "--where", "train.epoch > 1")
    assert wrong.code != 0
    assert "did you mean 'train.epochs'?" in wrong.err


@pytest.mark.parametrize(
    "configs",
    [
        [{"a": {"b": 1, "l": [{"x": 1}]}, "t": "2026-01-01"}, {"a": {"b": 2.5}}, None],  # a text like a time
        [{"a": {"b": "auto"}}, {"a": {"b": 8}}],  # a text and a number
        [{"a": {"b": 1, "l": [{"x": 1}], "e": {}}, "n": None}, {"a": {"b": 2, "l": []}, "c": True}, None],
    ],
)
def test_settings_are_what_the_recipes_say(configs: list[dict | None]):
    texts = [None if config is None else json.dumps(config) for config in configs]
    table = expressions._settings(texts)
    for place, config in enumerate(configs):
        expected = dict(expressions._leaves(config or {}))
        row = {name: value for name, value in table.iloc[place].items() if not pd.isna(value)}
        assert row == {name: value for name, value in expected.items() if value is not None}


@pytest.mark.slow
def test_the_example_is_true_of_a_sample(tmp_path: Path):
    home = Home(tmp_path)
    home.runs.mkdir()
    for folder in (PROJECT_ROOT / "sample_data" / "runs").glob("*chinese*"):
        (home.runs / folder.name).symlink_to(folder)
    ingest_all(home)
    with reading(home.index) as con:
        assert matching_runs(wide_table(con), expressions.EXAMPLE)


def test_the_seeds_of_one_recipe_share_a_name():
    table = pd.DataFrame(
        {"run_id": list("abcd"), "name": ["x", "x", "x", None], "train.seed": [0, 1, 0, 0], "train.lr": [1, 1, 2, None]}
    )
    names = expressions.recipe_names(table)
    assert names["a"] == names["b"] != names["c"]
    assert set(names) == {"x", "x #2", "unnamed"}


def test_runs_are_found_where_the_index_cannot_be_written(draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch):
    recipe = parse_recipe({"name": "demo", "prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}})
    run = RunFolder.create(home(), recipe)

    def read_only(*given: object, **named: object) -> None:
        raise DraftbenchError("not allowed to write")

    monkeypatch.setattr("engine.index.ingest.ingest_all", read_only)
    assert [row["run"] for row in draftbench("runs", "--where", "train.seed >= 0", "--json").json()] == [run.id]
    assert not home().index.exists()
