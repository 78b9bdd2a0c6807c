"""A focused training set, from the command line on the tiny pair: it holds what it says, and nothing held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config.schema import PromptSource
from engine.data.readers import read_prompts
from engine.errors import DraftbenchError
from engine.slices import focus
from engine.slices.selection import ScoredPrompt, worst_prompts
from tests.unit.conftest import Draftbench


def scored(*refusals: float) -> list[ScoredPrompt]:
    return [ScoredPrompt(f"p{i}", "", value, 10) for i, value in enumerate(refusals)]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.4, ["p1"]), (0.5, ["p1"]), (0.51, ["p1", "p2"]), (1.0, ["p1", "p2", "p0"])]
)
def test_the_fewest_prompts_that_hold_the_share(share: float, expected: list[str]):
    assert [item.prompt_id for item in worst_prompts(scored(1, 5, 4, 0), share)] == expected


def test_of_equal_prompts_the_first_ids_are_taken():
    assert [item.prompt_id for item in worst_prompts(scored(2, 2, 2, 2)[::-1], 0.5)] == ["p0", "p1"]


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share: float):
    with pytest.raises(DraftbenchError, match="--worst is"):
        worst_prompts(scored(1), share)


def test_prompts_that_are_never_refused_give_no_set():
    with pytest.raises(DraftbenchError, match="no token of these prompts is refused"):
        worst_prompts(scored(0, 0), 0.5)


@pytest.fixture
def name(finished_home: Path) -> str:
    return next(path.name for path in (finished_home / "runs").iterdir() if path.is_dir())


@pytest.mark.slow
def test_the_set_is_training_prompts_that_hold_the_share_and_a_run_trains_on_it(
    draftbench: Draftbench, name: str, tmp_path: Path, recipe: Path
):
    out = tmp_path / "focus.jsonl"
    made = draftbench("slices", name, "--worst", "0.5", "--out", str(out), "--json")
    assert made.code == 0, made.err
    report = made.json()
    prompts = read_prompts([PromptSource(path=str(out))]).prompts
    assert [prompt.id for prompt in prompts] == [row["prompt_id"] for row in report["selected"]]
    own = {
        prompt.id: prompt.key()
        for prompt in read_prompts([PromptSource(path=str(recipe.parent / "train.jsonl"))]).prompts
    }
    assert all(own[prompt.id] == prompt.key() for prompt in prompts)
    assert len(prompts) == report["n_selected"] < report["n_scored"] == 8
    refusals = [row["refusals"] for row in report["selected"]]
    assert refusals == sorted(refusals, reverse=True)
    assert 0.5 <= report["refusal_share"] < 0.5 + refusals[-1] / sum(refusals)
    assert report["acceptance"] <= report["acceptance_of_all"] + 0.05
    assert json.loads(out.with_suffix(".json").read_text())["sha256"] == report["sha256"]
    again = draftbench(
        *("run", str(recipe), "--set", f"prompts.train={out}", "--set", "train.epochs=1", "--json"),
        *("--set", "draft.init=checkpoint", "--set", f"draft.checkpoint={name}"),
    )
    assert again.code == 0, again.err


@pytest.mark.slow
def test_one_slice_s_refusals_can_be_what_counts(draftbench: Draftbench, name: str, tmp_path: Path):
    first = [*("slices", name, "--worst", "1"), "--by", "position", "--only", "0 to 7", "--json"]
    report = draftbench(*first, "--out", str(tmp_path / "a.jsonl")).json()
    assert sum(row["tokens"] for row in report["selected"]) <= 8 * 8
    assert (report["by"], report["only"]) == ("position", "0 to 7")
    for by in ("kind", "entropy", "context", "group", "category"):
        wrong = draftbench(
            "slices", name, "--worst", "1", "--out", str(tmp_path / "b.jsonl"), "--by", by, "--only", "?"
        )
        assert wrong.code == 2
        assert f"no token is in the slice '?' by {by}" in wrong.err
    assert not (tmp_path / "b.jsonl").exists()


def test_a_file_with_held_out_prompts_is_refused(draftbench: Draftbench, name: str, tmp_path: Path, recipe: Path):
    mixed = tmp_path / "mixed.jsonl"
    heldout = (recipe.parent / "heldout.jsonl").read_text().splitlines()
    mixed.write_text("\n".join([json.dumps({"id": "new", "prompt": "How do bees find their way home?"}), heldout[2]]))
    refused = draftbench("slices", name, "--worst", "0.5", "--out", str(tmp_path / "f.jsonl"), "--prompts", str(mixed))
    assert refused.code == 2
    assert "1 of the 2 prompts" in refused.err
    assert "heldout2 (exact)" in refused.err
    assert not (tmp_path / "f.jsonl").exists()
    whole = str(recipe.parent / "heldout.jsonl")
    assert (
        "6 of the 6"
        in draftbench("slices", name, "--worst", "1", "--out", str(tmp_path / "f.jsonl"), "--prompts", whole).err
    )


@pytest.mark.slow
def test_other_prompts_can_be_chosen_from(draftbench: Draftbench, name: str, tmp_path: Path):
    log = tmp_path / "log.jsonl"
    questions = ("How do bees find their way home?", "List the moons of Mars.", "Who wrote Emma?")
    log.write_text("\n".join(json.dumps({"id": f"n{i}", "prompt": text}) for i, text in enumerate(questions)))
    out = tmp_path / "focus.jsonl"
    report = draftbench("slices", name, "--worst", "0.3", "--out", str(out), "--prompts", str(log), "--json").json()
    assert report["n_scored"] == 3
    assert {row["prompt_id"] for row in report["selected"]} < {"n0", "n1", "n2"}
    assert report["source"] == str(log)


@pytest.mark.slow
def test_prompts_that_are_left_out_are_counted(draftbench: Draftbench, name: str, tmp_path: Path, monkeypatch):
    log, whole = tmp_path / "log.jsonl", focus._recipe
    rows = [{"id": "a", "prompt": "Who wrote Emma?"}, {"id": "b", "prompt": ""}, {"id": "c", "prompt": "So? " * 900}]
    log.write_text("\n".join(map(json.dumps, rows)))
    left_out = {"max_prompt_tokens": 400, "skip_bad": True}

    def limited(*arguments: Any) -> Any:
        recipe = whole(*arguments)
        return recipe.model_copy(update={"prompts": recipe.prompts.model_copy(update=left_out)})

    monkeypatch.setattr(focus, "_recipe", limited)
    monkeypatch.setattr(focus, "_refuse_heldout", lambda *arguments: None)
    shown = draftbench("slices", name, "--worst", "1", "--out", str(tmp_path / "f.jsonl"), "--prompts", str(log))
    assert "1 of 1 prompts" in shown.out, shown.err
    assert "left out as longer than prompts.max_prompt_tokens: 1 prompts" in shown.out
    assert "left out as no prompts: 1 rows of the prompt files" in shown.out


@pytest.mark.slow
def test_nothing_is_overwritten_that_is_not_asked_for(draftbench: Draftbench, name: str, tmp_path: Path, recipe: Path):
    out = tmp_path / "focus.jsonl"
    line = ("slices", name, "--worst", "0.5", "--out", str(out))
    assert draftbench(*line).code == 0
    again = draftbench(*line)
    assert again.code == 2
    assert "add --overwrite" in again.err
    assert draftbench(*line, "--overwrite").code == 0
    (tmp_path / "mine.jsonl").write_text("{}")
    mine = draftbench(*line[:-1], str(tmp_path / "mine.jsonl"), "--overwrite")
    assert (mine.code, (tmp_path / "mine.jsonl").read_text()) == (2, "{}")
    train = recipe.parent / "train.jsonl"
    before = train.read_text()
    refused = draftbench(*line[:-1], str(train), "--overwrite")
    assert (refused.code, train.read_text()) == (2, before)
    assert "prompts of the run itself" in refused.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--worst", "0.5"], "--worst and --out go together"),
        (["--out", "x.jsonl"], "--worst and --out go together"),
        (["--worst", "0.5", "--out", "x.csv"], "is no .jsonl file"),
        (["--worst", "7", "--out", "x.jsonl"], "--worst is 7"),
        (["--worst", "0.5", "--out", "x.jsonl", "--only", "number"], "go together"),
        (["--worst", "0.5", "--out", "x.jsonl", "--by", "kind"], "go together"),
        (["--worst", "0.5", "--out", "x.jsonl", "--by", "prompt", "--only", "train1"], "--by prompt with --only"),
        (["--worst", "0.5", "--out", "x.jsonl", "--rate", "tau"], "--rate would not be used"),
        (["--only", "number"], "--only would not be used"),
        (["--by", "colour"], "slices by 'colour' are unknown"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    draftbench: Draftbench, name: str, options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    refused = draftbench("slices", name, *options)
    assert refused.code == 2
    assert message in refused.err
    assert not list(tmp_path.glob("x.*"))


def test_held_out_prompts_that_were_changed_since_are_refused(
    draftbench: Draftbench, name: str, tmp_path: Path, recipe: Path, finished_home: Path
):
    config = finished_home / "runs" / name / "config.yaml"
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"prompt": f"another question {i}"}) for i in range(6)))
    config.write_text(config.read_text().replace(str(recipe.parent / "heldout.jsonl"), str(other)))
    refused = draftbench("slices", name, "--worst", "0.5", "--out", str(tmp_path / "f.jsonl"))
    assert refused.code == 2
    assert f"the heldout prompts are not those of run {name}" in refused.err


@pytest.mark.slow
def test_the_text_of_each_form(draftbench: Draftbench, name: str, tmp_path: Path):
    alone = draftbench("slices", name, "--temperature", "1", "--by", "position")
    assert alone.code == 0
    assert "of refusals" in alone.out
    against = draftbench("slices", name, "--against", name, "--by", "position")
    assert "the same target text" not in against.out or "B - A" in against.out
    focus = draftbench("slices", name, "--worst", "0.5", "--out", str(tmp_path / "f.jsonl"))
    assert "prompts hold" in focus.out
    assert "--set draft.init=checkpoint" in focus.out
    document = draftbench("slices", name, "--by", "position", "--json").json()
    assert document["sliced"]["by"] == "position"
