"""Every command: its help, its one JSON document, its text in 80 columns."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from engine.cli.app import app
from engine.cli.text import console
from engine.fileio import read_json, write_json
from engine.paths import PROJECT_ROOT, home
from tests.unit.conftest import Draftbench

pytestmark = pytest.mark.slow


def walk(command: Any, path: tuple[str, ...] = ("draftbench",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, (*path, name))


ROOT = typer.main.get_command(app)
COMMANDS = {" ".join(path): command for path, command in walk(ROOT)}


def examples(command: Any) -> list[str]:
    """The lines below 'Example:' in a command's help."""
    lines = [line.strip() for line in (command.help or "").splitlines()]
    return [line for line in lines[lines.index("Example:") + 1 :] if line] if "Example:" in lines else []


def parse(command: Any, name: str, arguments: list[str]) -> str:
    """Path of the command that the arguments reach, all of them understood; nothing is run."""
    context = command.make_context(name, list(arguments), resilient_parsing=False)
    rest = [*context._protected_args, *context.args]
    if not rest:
        return context.command_path.split()[-1]
    child_name, child, left = command.resolve_command(context, rest)
    return parse(child, child_name, left)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_parses_and_names_files_that_exist(name: str):
    lines = examples(COMMANDS[name])
    assert lines, f"{name} --help has no example"
    for line in lines:
        program, *arguments = shlex.split(line)
        if program == "torchrun":  # starts the command as several processes
            program, arguments = "draftbench", arguments[arguments.index("engine") + 1 :]
        assert program == "draftbench"
        reached = parse(ROOT, "draftbench", arguments)
        assert reached in {name.split()[-1], "check", "fetch", "predict", "run"}
        for file in (a for a in arguments if a.endswith((".yaml", ".jsonl"))):
            assert (PROJECT_ROOT / file).exists(), line


def test_an_example_that_is_wrong_would_be_seen():
    with pytest.raises(Exception, match="No such option"):
        parse(ROOT, "draftbench", ["run", "recipes/quickstart.yaml", "--epochs", "4"])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option_and_keeps_the_example_on_one_line(name: str, draftbench: Draftbench):
    shown = draftbench(*name.split()[1:], "--help")
    assert shown.code == 0
    for line in examples(COMMANDS[name]):
        assert line in shown.out
    for parameter in COMMANDS[name].params:
        assert parameter.help or parameter.name == "help", f"{name}: {parameter.name} has no help"


def test_no_command_shows_the_help(draftbench: Draftbench):
    shown = draftbench()
    assert shown.code == 0
    assert shown.out.startswith("Usage: draftbench")
    assert draftbench("--version").out.startswith("draftbench ")


QUICK_COMMANDS = {
    "doctor": (["doctor"], 1),  # this home has no asset and says so
    "data": (["data", "check", "{prompts}", "--target", "{target}"], 0),
    "capture": (["capture", "{recipe}"], 0),
    "run": (["run", "--resume", "latest"], 0),
    "plan": (["run", "{recipe}", "--plan"], 0),
    "train": (["train", "--resume", "latest"], 0),
    "runs": (["runs"], 0),
    "show": (["show", "latest"], 0),
    "compare": (["compare", "latest", "latest"], 0),
    "index": (["index"], 0),
    "export": (["export", "latest", "--out", "{out}", "--no-check"], 0),
    "decode": (["decode", "--run", "latest", "--prompt", "hi", "--max-new-tokens", "6"], 0),
    "plain": (["decode", "--target", "{target}", "--prompt", "hi", "--max-new-tokens", "3", "--dtype", "float32"], 0),
    "losses": (["losses"], 0),
    "schema": (["schema"], 0),
    "paths": (["paths"], 0),
    "cancel": (["runs", "cancel", "latest"], 2),
    "unknown run": (["show", "nothing-like-it"], 2),
    "unknown option": (["show", "latest", "--nonsense"], 2),
    "unknown command": (["shwo"], 2),
}


@pytest.mark.parametrize("name", QUICK_COMMANDS)
def test_json_is_one_document_on_stdout_and_text_is_no_json(
    name: str, finished_home: Path, recipe: Path, tiny_target_folder: Path, tmp_path: Path, draftbench: Draftbench
):
    given, code = QUICK_COMMANDS[name]
    places = {
        "prompts": str(recipe.with_name("train.jsonl")),
        "recipe": str(recipe),
        "target": str(tiny_target_folder),
        "out": str(tmp_path / "out"),
    }
    arguments = [part.format(**places) for part in given]
    machine = draftbench(*arguments, "--json")
    assert machine.code == code, machine.err
    document = json.loads(machine.out)  # fails on a second document or a stray line
    assert ("error" in document and "fix" in document["error"]) == (code == 2)
    if name == "export":
        arguments.append("--overwrite")
    people = draftbench(*arguments)
    assert people.code == code
    with pytest.raises(json.JSONDecodeError):
        json.loads(people.out)
    assert (people.out == "") == (code == 2)


def test_fetch_tells_where_the_model_lies(draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("engine.models.assets.fetch_asset", lambda name: tmp_path / f"{name}.gguf")
    monkeypatch.setattr("engine.models.gguf.gguf_as_folder", lambda path, **_: tmp_path / "model")
    document = draftbench("fetch", "--json").json()
    assert [(asset["name"], asset["folder"]) for asset in document] == [
        ("smollm2-135m-instruct", str(tmp_path / "model"))
    ]
    assert str(tmp_path / "model") in "".join(draftbench("fetch").out.split())  # a long path wraps


def test_packs_beside_all_packs_are_refused(draftbench: Draftbench):
    result = draftbench("data", "fetch", "bfcl", "--all", "--json")
    assert (result.code, result.json()["error"]["what"]) == (2, "--all and bfcl")


def test_a_run_on_a_part_of_a_file_that_has_none_is_refused_before_it_has_a_folder(
    tmp_path: Path, draftbench: Draftbench
):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "hi"}\n', encoding="utf-8")
    source = f"{{path: {file}, split: test}}"
    result = draftbench("run", "recipes/quickstart.yaml", "--set", f"prompts.train={source}", "--json")
    assert result.code == 2
    assert result.json()["error"]["what"] == f"{file} is read without the split 'test' that is named"
    assert not home().runs.exists()


def test_what_a_command_found_fits_80_columns(
    finished_home: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(console.out, "_width", 80)
    shown = draftbench("show", "latest").out
    summary = shown[shown.index("held-out: ") :]
    for text in (summary, draftbench("compare", "latest", "latest").out, draftbench("runs").out):
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80, text
    row = next(line for line in summary.splitlines() if line.startswith("exact"))
    assert row.count("(n = 5)") == 3, "before, trained and change stand in one line, of too few prompts for intervals"
    assert "speed-up" in summary
    assert "Transformers' plain generate" in summary
    assert "certificate: passed" in summary
    assert draftbench("runs").out.splitlines()[1].split()[1] == "done"


def test_a_measurement_from_before_the_third_way_of_timing_is_still_shown(finished_home: Path, draftbench: Draftbench):
    path = next(finished_home.glob("runs/*/measure/summary.json"))
    summary = read_json(path)
    del summary["speed"]["speedup_over_transformers"], summary["speed"]["tokens_per_s"]["transformers"]
    write_json(path, summary)
    shown = draftbench("show", "latest").out
    assert "speed-up" in shown
    assert "Transformers' plain" not in shown


def test_piped_tables_are_not_cut_to_a_screen(finished_home: Path, draftbench: Draftbench):
    lines = draftbench("runs").out.splitlines()
    assert any("tiny-" in line and "forward_kl" in line for line in lines)


@pytest.mark.parametrize(
    ("given", "said"), [("1e-40", "a temperature is 0, which is greedy, or at least 0.001"), ("nan", "'--temperature'")]
)
def test_decode_refuses_a_temperature_before_it_loads_a_model(given: str, said: str, draftbench: Draftbench):
    result = draftbench("decode", "--prompt", "hello", "--target", "nowhere", "--temperature", given)
    assert result.code == 2
    assert said in " ".join(result.err.split())


def test_decode_in_a_pipe_prints_the_answer_alone(finished_home: Path, draftbench: Draftbench):
    arguments = ("decode", "--run", "latest", "--prompt", "hello", "--max-new-tokens", "8")
    document = draftbench(*arguments, "--json").json()
    assert document["drafted"] == document["accepted"] + document["rejected"] + document["discarded"]
    assert document["settings"]["num_draft_tokens"] == 4
    assert document["settings"]["draft"].startswith("tiny-")
    argmax = draftbench(*arguments, "--temperature", "1", "--proposals", "argmax", "--json").json()
    assert argmax["settings"]["proposals"] == "argmax"
    assert {t["draft_prob"] for r in argmax["rounds"] for t in r["tokens"] if t["fate"] == "rejected"} <= {1.0}
    parts = [r[part] for r in document["rounds"] for part in ("draft_s", "verify_s", "overhead_s")]
    assert document["seconds"] == pytest.approx(sum(parts)), "what is done between the rounds is not decoding"
    text = draftbench(*arguments).out
    assert console.harmless(document["text"]).strip() in text
    assert len(draftbench(*arguments, "--refused").out) > len(text)
