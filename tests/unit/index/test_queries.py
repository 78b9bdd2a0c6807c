"""What the queries give of indexed runs."""

import json

import numpy as np
import pytest

from engine.errors import DraftbenchError
from engine.index import ingest, queries
from engine.index.connection import reading
from engine.index.contents import loss_label
from engine.index.ingest import ingest_all, ingest_run
from engine.paths import Home
from tests.unit.index.run_folders import KEY, frames, make_run, recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home [1] *" / "draft=other")  # names that globbing and hive partitions would trip over


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    make_run(home, "run-1")
    make_run(home, "run-2", train={"loss": "sft"}, prompts={"train": "a", "heldout": "b", "scenario": "synthetic"})
    ingest_all(home)
    ingest.add_details(home)
    with reading(home.index) as connection:
        yield connection


def test_list_runs_has_a_row_a_run_without_the_long_columns(con):
    runs = queries.overview(con)
    assert sorted(runs.run_id) == ["run-1", "run-2"]
    assert set(runs[runs.run_id == "run-2"].supervision) == {"black_box"}
    assert not {"config", "provenance", "fingerprint"} & set(runs)
    assert list(runs.tags.iloc[0]) == ["x", "y"]


def test_get_run_suggests_the_nearest(con):
    with pytest.raises(DraftbenchError, match="'run-9'") as refused:
        queries.get_run(con, "run-9")
    assert "did you mean 'run-" in refused.value.fix


def test_metrics_carry_their_conditions(con):
    rates = queries.metrics(con, ["run-1"])
    assert list(rates.metric) == ["exact", "per_proposed"]
    assert list(rates.acceptance_rule) == ["expected", "expected"]
    assert rates.low.isna().tolist() == [False, True]
    assert set(rates.num_draft_tokens) == {3}
    assert len(queries.metrics(con, ["run-1", "run-2"])) == 4
    assert list(queries.metrics(con, [])) == list(rates)  # no rows, same columns


def test_a_temperature_stored_as_float32_is_found(home):
    folder = make_run(home)
    frame = frames()["prompts"].assign(temperature=np.float32(0.7))
    frame.to_parquet(folder / "measure" / "prompts.parquet")
    ingest_run(home.index, folder)
    with reading(home.index) as con:
        assert len(queries.prompts_of(con, ["run-1"], 0.7)) == 2


def test_rows_of_the_trained_draft_at_one_temperature(con):
    assert len(queries.prompts_of(con, ["run-1", "run-2"], 1.0)) == 4
    assert len(queries.rounds_of(con, ["run-1"], 1.0)) == 4
    assert len(queries.agreement_of(con, ["run-1"], 1.0)) == 6
    assert queries.rounds_of(con, ["run-1"], 0.5).empty


def test_loss_labels():
    def label(*terms):
        return loss_label(recipe(train={"loss": list(terms)}).train.loss)

    assert label("forward_kl") == "forward_kl"
    assert label({"name": "jsd", "beta": 0.1}) == "jsd(beta=0.1)"
    assert label({"name": "jsd", "eta": 2}) == "jsd"
    assert label({"name": "lk_hybrid", "eta": 2}, {"name": "tvd", "weight": 0.5}) == "lk_hybrid(eta=2) + 0.5*tvd"


def test_redone_steps_are_not_in_the_curve(con):
    curve = queries.curve(con, ["run-1", "other"])
    trained = curve[curve.kind == "train"]
    assert list(trained.step) == [1, 2, 3]
    assert list(trained.value) == [1.0, 0.5, 0.3]
    assert curve[curve.kind == "eval"].iloc[0].tokens_seen == 30


def test_the_overview_holds_the_headline_of_each_run(home):
    folder = make_run(home, "measured")
    summary = json.loads((folder / "measure" / "summary.json").read_text())
    exact = {**KEY, "metric": "exact", "value": 0.3, "low": 0.2, "high": 0.4, "n_prompts": 2, "n_tokens": 6}
    summary["metrics"] += [
        {**exact, "temperature": 0.0},
        {**exact, "temperature": 0.0, "draft": "initial", "value": 0.1},
    ]
    summary["certificate"] = {"passed": True}
    summary["speed"] = {"speedup": {"value": 1.2, "low": 1.1, "high": float("nan")}}
    (folder / "measure" / "summary.json").write_text(json.dumps(summary))
    bare = make_run(home, "bare", state="queued")
    for path in (bare / "measure").iterdir():
        path.unlink()
    ingest_all(home)
    with reading(home.index) as con:
        rows_by_id = queries.overview(con).set_index("run_id")
        whole = queries.get_run(con, "measured")
    measured = rows_by_id.loc["measured"]
    assert (measured.exact, measured.exact_low, measured.temperature, measured.initial) == (0.3, 0.2, 0.0, 0.1)
    assert (bool(measured.certificate), measured.speedup, measured.speedup_low) == (True, 1.2, 1.1)
    assert np.isnan(measured.speedup_high)
    assert np.isnan(rows_by_id.loc["bare"].exact)
    assert rows_by_id.loc["bare"].state == "queued"
    assert len(rows_by_id) == 2
    assert whole.summary.conditions.document()["kernel"] == "eager"
    assert "metrics" not in whole.summary
    assert whole.certificate is True
