"""A run that trains nothing: a target alone, or with a draft as it is, is a run like others and says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import DraftbenchError
from engine.findings.home import evaluate_home
from engine.index.connection import reading
from engine.index.ingest import ingest_all
from engine.index.queries import get_run, overview
from engine.measure.decision import decide
from engine.paths import Home
from engine.records.provenance import Provenance
from engine.records.summary import Summary
from engine.runs.as_it_is import recipe_as_it_is, recipe_to_train, short_name
from engine.runs.folder import RunFolder
from tests.conftest import byte_tokenizer, tiny_llama
from tests.unit.conftest import Draftbench, Result

TINY = {
    "measure.max_new_tokens": 10,
    "measure.trace_prompts": 3,
    "measure.speed_prompts": 6,
    "measure.speed_tokens": 6,
    "measure.certificate_tokens": 4,
    "measure.bootstrap_samples": 200,
    "target.dtype": "float32",
    "target.device": "cpu",
}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [{"id": f"q{i}", "prompt": f"question number {i * 7}?"} for i in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def measure(draftbench: Draftbench, model: Path, prompts: Path, *more: str, **settings: object) -> Result:
    wanted = TINY | {f"measure.{key}": value for key, value in settings.items()}
    sets = [part for key, value in wanted.items() for part in ("--set", f"{key}={value}")]
    return draftbench("measure-only", str(model), "--prompts", str(prompts), *sets, *more)


@pytest.mark.parametrize(("card", "shares"), [({"share_embeddings": True}, True), ({}, False), (None, False)])
def test_a_draft_to_train_keeps_the_embeddings_that_it_has(
    tmp_path: Path, prompts: Path, card: dict[str, bool] | None, shares: bool
):
    if card is not None:
        (tmp_path / "draft.json").write_text(json.dumps({"info": card}), encoding="utf-8")
    named = {"train": str(prompts), "heldout": str(prompts), "draft": str(tmp_path)}
    made = recipe_to_train(Home(tmp_path / "home"), str(tmp_path), layers=4, ids=9, **named)
    assert made.draft.share_embeddings == shares


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_draft_that_reads_less_than_the_prompts_is_refused_before_the_target_answers(
    draftbench: Draftbench, tiny_target_folder: Path, prompts: Path, tmp_path: Path, family: str
):
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2Config(vocab_size=258, n_embd=32, n_layer=1, n_head=4, n_positions=40, bos_token_id=0, eos_token_id=1)
    model = GPT2LMHeadModel(small) if family == "gpt2" else tiny_llama(layers=1, max_position_embeddings=40)
    model.save_pretrained(tmp_path / "short")
    byte_tokenizer().save_pretrained(tmp_path / "short")
    result = measure(draftbench, tiny_target_folder, prompts, "--draft", str(tmp_path / "short"))
    assert result.code != 0
    assert "draft reads 40 at most" in result.err
    assert "(8 of 8 prompts are too long)" in result.err
    assert not list(tmp_path.glob("home/captures/*/answers.jsonl"))


@pytest.mark.slow
def test_a_target_alone_is_timed_and_nothing_else_is_claimed(
    draftbench: Draftbench, finished_home: Path, tiny_target_folder: Path, prompts: Path
):
    result = measure(draftbench, tiny_target_folder, prompts, "--json")
    assert result.code == 0, result.err
    document = result.json()
    assert document["state"] == "done"
    assert document["subject"] == "target alone"
    assert set(document["speed"]["tokens_per_s"]) == {"plain", "transformers"}
    assert document["speed"]["tokens_per_s"]["plain"]["n_prompts"] == 6
    assert document["speed"]["load"]["cores"] >= 1
    assert document["speed"]["load"]["during"] >= 0
    assert "certificate" not in document
    assert "metrics" not in document

    home, run_id = Home(finished_home), document["run"]
    run = RunFolder.open(home, run_id)
    assert sorted(path.name for path in (run.path / "measure").iterdir()) == ["speed.parquet", "summary.json"]
    decision = decide(run.summary())
    assert decision.answer == "not decided yet"
    assert decision.reasons[0] == "no draft was measured"
    assert "plain decoding gives" in decision.sentence
    provenance = Provenance.read(run.path)
    assert provenance is not None
    assert (provenance.prompts.measured, provenance.draft_parameters) == (8, None)

    ingest_all(home)
    with reading(home.index) as con:
        indexed, rows = get_run(con, run_id), overview(con)
    assert (indexed.state, indexed.problems, indexed.mode, indexed.loss) == ("done", [], "measured_only", None)
    assert rows.set_index("run_id").exact.isna()[run_id]

    shown = draftbench("show", run_id)
    assert "Not decided yet: no draft was measured" in shown.out
    assert "nothing: it only measures" in shown.out
    assert run_id in [row["run"] for row in draftbench("runs", "--json").json()]


@pytest.mark.slow
def test_a_draft_is_measured_as_it_is_and_not_counted_as_trained(
    draftbench: Draftbench, finished: tuple[Path, Result], finished_home: Path, tiny_target_folder: Path, prompts: Path
):
    trained = finished[1].json()["run"]
    result = measure(draftbench, tiny_target_folder, prompts, "--draft", trained, "--json")
    assert result.code == 0, result.err
    document = result.json()
    assert document["subject"] == "draft as it is"
    assert {m["draft"] for m in document["metrics"]} == {
        "trained"
    }  # the run's own draft; `subject` says that it is not
    assert document["improvement"] == []
    assert document["certificate"]["passed"]
    assert document["speed"]["speedup"]["n_prompts"] == 6

    home, run_id = Home(finished_home), document["run"]
    run = RunFolder.open(home, run_id)
    origin, mine = Provenance.read(RunFolder.open(home, trained).path), Provenance.read(run.path)
    assert origin is not None
    assert mine is not None
    assert origin.measurement is not None
    assert mine.measurement is not None
    assert mine.measurement.draft_sha256 == origin.measurement.draft_sha256
    assert not (run.path / "training.json").exists()
    assert not (run.path / "draft").exists()

    ingest_all(home)
    with reading(home.index) as con:
        row = overview(con).set_index("run_id").loc[run_id]
        assert get_run(con, run_id).problems == []
    assert 0 < row.exact <= 1
    assert evaluate_home(home).left_out["only measured"] == 1
    assert "measured as it is; nothing was trained" in draftbench("show", run_id).out

    refused = draftbench("export", run_id, "--out", str(finished_home / "out"), "--no-check")
    assert refused.code == 2
    assert "only measured, and keeps no draft of its own" in " ".join(refused.err.split())
    assert not (finished_home / "out").exists()

    again = draftbench("measure", run_id, "--set", "measure.num_draft_tokens=2", "--json")
    assert again.code == 0, again.err
    assert again.json()["conditions"]["num_draft_tokens"] == 2
    assert run.recipe().measure.num_draft_tokens == 2


@pytest.mark.slow
def test_the_draft_that_is_measured_as_it_is_is_the_one_that_was_trained(
    draftbench: Draftbench, finished: tuple[Path, Result], finished_home: Path, recipe: Path, tiny_target_folder: Path
):
    """On the prompts that the training run was measured on, exact acceptance is the same to the last bit."""
    trained = finished[1].json()["run"]
    folder = RunFolder.open(Home(finished_home), trained)
    ids = [row["id"] for row in map(json.loads, (recipe.parent / "heldout.jsonl").read_text("utf-8").splitlines())]
    watched = Provenance.read_or_empty(folder.path).prompts.watched
    rows = (recipe.parent / "heldout.jsonl").read_text("utf-8").splitlines()[watched:]
    same = finished_home / "same.jsonl"
    same.write_text("\n".join(rows), encoding="utf-8")
    assert len(rows) < len(ids)
    result = measure(
        draftbench, tiny_target_folder, same, "--draft", trained, "--json", temperatures=[0.0, 1.0], speed_prompts=0
    )
    assert result.code == 0, result.err

    def exact(summary: Summary) -> list[float]:
        return [row.value for row in summary.of("trained", "exact")]

    measured = RunFolder.open(Home(finished_home), result.json()["run"]).summary()
    assert exact(measured) == pytest.approx(exact(folder.summary()), abs=1e-6)
    assert measured.conditions.heldout_hash == folder.summary().conditions.heldout_hash
    compared = draftbench("compare", trained, result.json()["run"], "--json")
    assert compared.code == 0, compared.err
    assert all(row["comparable"] for row in compared.json()["rows"] if row["metric"] == "exact")


@pytest.mark.slow
def test_layers_that_nobody_trained_can_be_measured_too(
    draftbench: Draftbench, tiny_target_folder: Path, prompts: Path
):
    result = measure(draftbench, tiny_target_folder, prompts, "--set", "draft={layers: [0, 3]}", "--json")
    assert result.code == 0, result.err
    assert result.json()["subject"] == "draft as it is"


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("prompts.train=train.jsonl", "prompts.train has no use"),
        ("draft.lora={}", "draft.lora"),
        ("task=train", "prompts.train is empty"),
    ],
)
def test_what_would_not_be_used_is_refused(
    tmp_path: Path, tiny_target_folder: Path, prompts: Path, setting: str, word: str
):
    with pytest.raises(DraftbenchError, match=word):
        recipe_as_it_is(Home(tmp_path), str(tiny_target_folder), [str(prompts)], settings=[setting])


def test_nothing_to_time_and_nothing_to_train_are_refused(
    draftbench: Draftbench, tiny_target_folder: Path, prompts: Path, tmp_path: Path
):
    refused = measure(draftbench, tiny_target_folder, prompts, speed_prompts=0)
    assert refused.code == 2
    assert "speed is all that can be measured" in " ".join(refused.err.split())
    recipe = recipe_as_it_is(Home(tmp_path), str(tiny_target_folder), [str(prompts)])
    run = RunFolder.create(Home(tmp_path / "home"), recipe)
    stopped = draftbench("train", "--resume", run.id)
    assert stopped.code == 2
    assert "trains nothing" in stopped.err


def test_a_missing_model_and_a_missing_file_are_refused_before_anything_is_made(
    draftbench: Draftbench, tiny_target_folder: Path, prompts: Path, tmp_path: Path
):
    for model, file in ((tmp_path / "nowhere", prompts), (tiny_target_folder, tmp_path / "nothing.jsonl")):
        refused = draftbench("measure-only", str(model), "--prompts", str(file))
        assert refused.code == 2
        assert "no" in refused.err
    assert not (tmp_path / "home" / "runs").exists()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("asset:smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("hub:org/Some Model", "Some-Model"),
        ("/models/mine.gguf", "mine"),
        ("/models/领域/", "model"),
    ],
)
def test_a_run_is_named_after_its_model(model: str, name: str):
    assert short_name(model) == name
