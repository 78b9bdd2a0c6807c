"""Bad input and faults: what, why and fix on standard error, exit status 2, and nothing lost."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import DraftbenchError
from engine.paths import home
from engine.runs import execution
from engine.runs.faults import explain
from engine.runs.folder import RunFolder, run_folders
from engine.runs.session import Session
from tests.conftest import byte_tokenizer, tiny_llama
from tests.unit.conftest import Draftbench, Result

pytestmark = pytest.mark.slow


def assert_explained(result: Result, *words: str) -> None:
    """Exit status 2, and every word in the three lines on standard error."""
    assert result.code == 2
    assert "Traceback" not in result.err
    lines = result.err.split("\n")
    assert sum(line.startswith("error: ") for line in lines) == 1, result.err
    assert any(line.startswith("  fix: ") for line in lines)
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("train.epoch=2", "did you mean 'epochs'?"),
        ("trian.epochs=2", "did you mean 'train'?"),
        ("train.epochs=many", "valid number"),
        ("train.loss=foward_kl", "did you mean 'forward_kl'?"),
        ("prompts.train=nowhere.jsonl", "nowhere.jsonl"),
        ("target.model=no/such/model", "no/such/model"),
        ("target.model=asset:smollm3", "smollm2-135m-instruct"),
        ("target.adapter=no/such/adapter", "no/such/adapter"),
        ("draft={init: checkpoint, checkpoint: nobody}", "nobody"),
        ("measure.temperatures=[-1]", "negative"),
        ("nonsense", "key=value"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_there_is_a_run(
    recipe: Path, draftbench: Draftbench, setting: str, word: str
):
    assert_explained(draftbench("run", str(recipe), "--set", setting), word)
    assert not home().runs.exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [("", "empty"), ("no JSON", "no valid row"), ('{"question": "what?"}', "no valid row"), ("\0", "no valid row")],
)
@pytest.mark.parametrize("command", [["run"], ["run", "--queue"], ["train"], ["measure-only"]])
def test_prompts_that_cannot_be_read_leave_no_run(
    recipe: Path, draftbench: Draftbench, tmp_path: Path, command: list[str], content: str, word: str
):
    mine = tmp_path / "mine.jsonl"
    mine.write_text(content, encoding="utf-8")
    given = [str(recipe), "--set", f"prompts.heldout={mine}"]
    if command == ["measure-only"]:
        given = ["asset:smollm2-135m-instruct", "--prompts", str(mine)]
    assert_explained(draftbench(*command, *given), word)
    assert not home().runs.exists()


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("target.model={}", "is not a model"),
        ("target.adapter={}", "is not a PEFT adapter"),
        ("draft={{init: checkpoint, checkpoint: {}}}", "is not a model"),
        ("prompts.train=pack:biology/none", "not a set of the packs"),
    ],
)
def test_a_folder_that_holds_something_else_leaves_no_run(
    recipe: Path, draftbench: Draftbench, tmp_path: Path, setting: str, word: str
):
    assert_explained(draftbench("run", str(recipe), "--set", setting.format(tmp_path)), word)
    assert not home().runs.exists()


@pytest.mark.parametrize(
    ("setting", "word"),
    [("draft.layers=99", "4 layers"), ("target.device=banana", "banana"), ("draft.layers=[3, 0]", "ascending")],
)
def test_what_only_the_model_can_tell_is_refused_before_the_captures(
    recipe: Path, draftbench: Draftbench, setting: str, word: str
):
    assert_explained(draftbench("run", str(recipe), "--set", setting), word)
    run = RunFolder.open(home(), "latest")
    assert run.status().state == "failed"
    assert word in str(run.status().error)
    assert not home().captures.exists()


def test_a_draft_of_another_vocabulary_is_refused(recipe: Path, tmp_path: Path, draftbench: Draftbench):
    folder = tmp_path / "stranger"
    tiny_llama(vocab=259).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<stranger>"])
    tokenizer.save_pretrained(folder)
    setting = f"draft={{init: checkpoint, checkpoint: {folder}}}"
    assert_explained(draftbench("run", str(recipe), "--set", setting), "vocabulary", "<stranger>")


def test_a_target_without_chat_template_is_refused(recipe: Path, tmp_path: Path, draftbench: Draftbench):
    folder = tmp_path / "base-model"
    tiny_llama().save_pretrained(folder)
    byte_tokenizer(None).save_pretrained(folder)
    assert_explained(draftbench("run", str(recipe), "--set", f"target.model={folder}"), "chat template")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ('{"prompt": "a"}\n{"prompt": \n', ["prompts.jsonl:2", "--skip-bad"]),
        ('{"prompt": "' + "long " * 200 + '"}\n', ["at most 500 fit", "max_prompt_tokens"]),
    ],
)
def test_prompts_that_cannot_be_used_are_named(
    recipe: Path, tmp_path: Path, draftbench: Draftbench, text: str, words: list[str]
):
    file = tmp_path / "prompts.jsonl"
    file.write_text(text, encoding="utf-8")
    assert_explained(draftbench("capture", str(recipe), "--set", f"prompts.train={file}"), *words)


def test_bad_rows_are_left_out_and_counted_if_asked(
    recipe: Path, tmp_path: Path, tiny_target_folder: Path, draftbench: Draftbench
):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\nnonsense\n{"prompt": "b"}\n', encoding="utf-8")
    checked = draftbench("data", "check", str(file), "--target", str(tiny_target_folder), "--skip-bad", "--json").json()
    assert (checked["prompts"], [row["line"] for row in checked["bad_rows"]]) == (2, [2])
    captured = draftbench("capture", str(recipe), "--set", f"prompts.train={file}", "--skip-bad", "--json")
    assert captured.json()[0]["prompts"] == 2
    assert "bad_rows 1" in captured.err


def test_columns_of_other_forms_are_named_and_what_the_template_leaves_out_is_said(
    tmp_path: Path, tiny_target_folder: Path, draftbench: Draftbench
):
    file = tmp_path / "sharegpt.jsonl"
    file.write_text(json.dumps({"conversations": [{"from": "human", "value": "hi", "weight": 0}]}) + "\n")
    check = ("data", "check", str(file), "--target", str(tiny_target_folder))
    assert_explained(draftbench(*check), "messages_column: conversations would read it")
    said = draftbench(*check, "--messages-column", "conversations").out
    assert "does not write 'weight' of user messages, in 1 of 1 prompts" in " ".join(said.split())


def test_a_plan_says_what_would_fail_and_what_it_costs_and_starts_nothing(recipe: Path, draftbench: Draftbench):
    good = draftbench("run", str(recipe), "--plan")
    assert (good.code, "\ndisk: at most " in good.out, "\nmemory: about " in good.out) == (0, True, True)
    bad = draftbench("run", str(recipe), "--plan", "--set", f"prompts.heldout={recipe.with_name('train.jsonl')}")
    assert bad.code == 1
    assert "FIX" in bad.out
    assert "fix overlap: give other prompts to train on" in bad.out
    assert run_folders(home()) == []
    assert_explained(draftbench("run", str(recipe), "--plan", "--queue"), "--plan")


def test_a_diverging_run_fails_with_a_reason_and_keeps_the_untrained_draft(recipe: Path, draftbench: Draftbench):
    settings = ("--set", "train.learning_rate=1e30", "--set", "train.warmup_fraction=0")
    assert_explained(draftbench("run", str(recipe), *settings), "diverged", "learning_rate")
    run = RunFolder.open(home(), "latest")
    assert run.status().state == "failed"
    assert (run.path / "draft" / "best" / "draft.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [("run",), ("run", "{recipe}", "--resume", "latest"), ("run", "--resume", "latest", "--set", "train.epochs=9")],
)
def test_a_run_begins_from_a_recipe_or_goes_on_as_it_began(
    recipe: Path, draftbench: Draftbench, arguments: tuple[str, ...]
):
    assert_explained(draftbench(*(a.format(recipe=recipe) for a in arguments)), "run")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("decode", "--prompt", " "), "empty"),
        (("decode", "--prompt", "x", "--dtype", "float8"), "bfloat16"),
        (("decode", "--prompt", "x", "--gamma", "99"), "32"),
        (("decode", "--prompt", "x", "--run", "latest", "--draft", "y"), "--run"),
        (("measure", "latest", "--set", "train.epochs=2"), "train.epochs"),
        (("compare", "latest"), "argument"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    finished_home: Path, draftbench: Draftbench, arguments: tuple[str, ...], word: str
):
    assert_explained(draftbench(*arguments), word)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/signal.bin"), ["disk is full", "signal.bin"]),
        (OSError(errno.EFBIG, "File too large"), ["may not grow"]),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), ["/x", "DRAFTBENCH_HOME"]),
        (MemoryError(), ["out of memory", "batch_size"]),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), ["out of memory", "batch_size"]),
    ],
)
def test_a_fault_of_the_machine_fails_the_run_in_words(
    recipe: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch, error: Exception, words: list[str]
):
    def broken(session: Session) -> None:
        raise error

    monkeypatch.setattr(execution, "train", broken)
    assert_explained(draftbench("run", str(recipe)), *words)
    status = RunFolder.open(home(), "latest").status()
    assert status.state == "failed"
    assert words[0] in str(status.error)


def test_a_defect_of_ours_keeps_its_traceback(recipe: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch):
    def broken(session: Session) -> Any:
        return {}["a key nobody set"]

    monkeypatch.setattr(execution, "train", broken)
    with pytest.raises(KeyError, match="a key nobody set"):
        draftbench("run", str(recipe))
    run = RunFolder.open(home(), "latest")
    assert run.status().state == "failed"
    assert "a key nobody set" in (run.path / "log.txt").read_text(encoding="utf-8")
    assert explain(KeyError("x")) is None


def test_a_home_that_cannot_be_is_refused(
    recipe: Path, tmp_path: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DRAFTBENCH_HOME", str(tmp_path / "file"))
    assert_explained(draftbench("run", str(recipe)), "DRAFTBENCH_HOME")
    checks = {check["name"]: check for check in draftbench("doctor", "--json").json()}
    assert not checks["home"]["ok"]
    assert "DRAFTBENCH_HOME" in checks["home"]["fix"]


def test_a_damaged_run_is_listed_and_mended(finished_home: Path, draftbench: Draftbench):
    run = RunFolder.open(home(), "latest")
    (run.path / "status.json").write_bytes(b'{"state": \xff')
    assert [row["state"] for row in draftbench("runs", "--json").json()] == ["damaged"]
    (run.path / "measure" / "summary.json").write_text("{", encoding="utf-8")
    assert "draftbench measure" in draftbench("show", run.id, "--json").json()["problem"]
    assert_explained(draftbench("compare", run.id, run.id), "summary.json is damaged", f"draftbench measure {run.id}")
    assert draftbench("measure", run.id).code == 0
    assert [row["state"] for row in draftbench("runs", "--json").json()] == ["done"]
    (run.path / "config.yaml").write_text("target: [", encoding="utf-8")
    [row] = draftbench("runs", "--json").json()
    assert row["state"] == "damaged"
    assert "config.yaml" in row["problem"]
    assert_explained(draftbench("run", "--resume", run.id), "config.yaml")


def test_a_half_written_event_spoils_itself_alone(finished_home: Path, draftbench: Draftbench):
    run = RunFolder.open(home(), "latest")
    with open(run.path / "events.jsonl", "ab") as file:
        file.write(b'{"kind": "train", "st')
    assert draftbench("run", "--resume", run.id).code == 0
    last = (run.path / "events.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["state"] == "done"
    result = draftbench("index", "--json")
    assert (result.code, result.json()["failed"]) == (0, {})


def test_an_error_carries_all_three_parts_to_json(draftbench: Draftbench):
    result = draftbench("show", "nothing", "--json")
    assert result.code == 2
    assert set(result.json()["error"]) == set(DraftbenchError("", "", "").as_dict())


def test_ctrl_c_in_any_command_ends_with_status_130(draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch):
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.runs.listing.list_runs", stopped)
    result = draftbench("runs", "--json")
    assert (result.code, result.json()["error"]["what"]) == (130, "stopped")
    assert "error: stopped" in draftbench("runs").err


def test_captures_in_shards_go_to_this_machine_or_to_ray_and_are_joined(recipe: Path, draftbench: Draftbench):
    refused = draftbench("capture", str(recipe), "--shards", "3", "--on", "elsewhere://host:1")
    assert_explained(refused, "captures go to Ray", "without --on")
    made = draftbench("capture", str(recipe), "--shards", "3", "--json")
    assert made.code == 0
    for capture in made.json():
        folder = Path(capture["folder"])
        assert (folder / "done.json").exists()
        assert not (folder / "shards").exists()
    assert draftbench("capture", str(recipe), "--json").json() == made.json()
