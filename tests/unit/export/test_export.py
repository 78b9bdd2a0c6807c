"""An exported draft is a plain Hugging Face model that measures and decodes as the run's draft did."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.config.schema import Recipe
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from engine.errors import DraftbenchError
from engine.export import folder, huggingface
from engine.export.model_card import model_card, public_name
from engine.export.steps import LIBRARIES, STEPS, WRITE
from engine.measure.definitions import RATES
from engine.models.load import load_model
from engine.numbers import LEAST_PROMPTS
from engine.paths import home
from engine.records.provenance import Provenance
from engine.records.summary import Summary
from engine.runs.folder import RunFolder
from tests.unit.conftest import Draftbench
from tests.unit.export.conftest import export

pytestmark = pytest.mark.slow


def test_a_folder_that_no_settings_could_name_is_refused(tmp_path: Path):
    with pytest.raises(DraftbenchError, match="is not UTF-8"):
        folder.refuse_taken(tmp_path / os.fsdecode(b"caf\xe9"), overwrite=False)


def test_it_measures_what_the_run_measured(run: RunFolder, tmp_path: Path, draftbench: Draftbench):
    report = export(draftbench, tmp_path / "out")
    measured = {
        m["temperature"]: m["value"]
        for m in run.summary().document()["metrics"]
        if (m["draft"], m["metric"]) == ("trained", "exact")
    }
    assert {row["temperature"]: row["exported"] for row in report["checked"]} == pytest.approx(measured)
    assert report["ok"]
    assert report["same_greedy_text"] == "4 of 4"


def test_plain_transformers_loads_it_and_assisted_generation_writes_our_greedy_text(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    export(draftbench, tmp_path / "out", "--no-check")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    draft = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert draft.config.num_hidden_layers == 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template
    target = load_model(run.recipe().target)
    message = [{"role": "user", "content": "What is a leaf?"}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    options: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 1}
    prompt = ids["input_ids"]
    plain = target.model.generate(**ids, **options)[0, prompt.shape[1] :].tolist()
    assisted = target.model.generate(**ids, **options, assistant_model=draft)[0, prompt.shape[1] :].tolist()
    rounds = speculative_decode(
        target.model,
        draft,
        [prompt[0].tolist()],
        DecodeSettings(Sampling(0.0), FixedLength(3), 24, target.stop_ids),
    )
    assert [token for r in rounds for token in r.emitted] == assisted == plain


def test_its_files_may_be_read_by_a_server_of_another_user(run: RunFolder, tmp_path: Path, draftbench: Draftbench):
    export(draftbench, tmp_path / "out", "--no-check")
    files = list((tmp_path / "out").iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {file.name for file in files}
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in files)


def test_a_folder_that_measures_something_else_ends_with_status_1(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    write = huggingface.write

    def spoiled(folder: Path, draft: Any, *rest: Any, **options: Any) -> None:
        with torch.no_grad():
            for parameter in draft.model.model.layers.parameters():
                parameter.add_(torch.full_like(parameter, 0.5))
        write(folder, draft, *rest, **options)

    monkeypatch.setattr(huggingface, "write", spoiled)
    result = draftbench("export", "latest", "--out", str(tmp_path / "out"), "--json")
    assert result.code == 1
    assert not result.json()["ok"]
    again = draftbench("export", "latest", "--out", str(tmp_path / "out"), "--overwrite")
    assert (again.code, "CHECK FAILED" in again.out) == (1, True)


def test_an_earlier_export_is_replaced_only_if_asked(run: RunFolder, tmp_path: Path, draftbench: Draftbench):
    out = tmp_path / "out"
    export(draftbench, out, "--no-check")
    (out / "extra").write_text("from before")
    refused = draftbench("export", "latest", "--out", str(out), "--no-check", "--json")
    assert refused.code == 2
    assert "--overwrite" in refused.json()["error"]["fix"]
    assert (out / "extra").exists()
    export(draftbench, out, "--no-check", "--overwrite")
    assert not (out / "extra").exists()
    assert os.listdir(tmp_path).count("out") == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".out")]


@pytest.mark.parametrize("more", [("--for", "vllm"), ("--for", "vllm", "--preflight"), ()])
def test_a_folder_among_the_runs_would_be_read_as_one(more: tuple[str, ...], run: RunFolder, draftbench: Draftbench):
    result = draftbench("export", "latest", "--out", str(home().runs / "out"), "--json", *more)
    assert result.code == (1 if "--preflight" in more else 2)
    assert "is inside the runs folder" in result.out
    assert not (home().runs / "out").exists()


def test_what_is_no_export_is_never_replaced(run: RunFolder, tmp_path: Path, draftbench: Draftbench):
    for place in (tmp_path / "thesis", tmp_path / "letter"):
        if place.name == "thesis":
            place.mkdir()
            (place / "README.md").write_text("years of work")
        else:
            place.write_text("dear")
        refused = draftbench("export", "latest", "--out", str(place), "--overwrite", "--json")
        assert refused.code == 2
        assert "other than an export" in refused.json()["error"]["what"]
    assert (tmp_path / "thesis" / "README.md").read_text() == "years of work"
    assert (tmp_path / "letter").read_text() == "dear"


def test_a_full_disk_leaves_the_earlier_export_as_it_was(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    export(draftbench, out, "--no-check")
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def full(self: Any, folder: Path, **options: Any) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transformers.LlamaForCausalLM.save_pretrained", full)
    result = draftbench("export", "latest", "--out", str(out), "--no-check", "--overwrite")
    assert result.code == 2
    assert "disk is full" in result.err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".out")]


def test_the_model_card_holds_every_measured_number(run: RunFolder, tmp_path: Path, draftbench: Draftbench):
    export(draftbench, tmp_path / "out", "--no-check")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    rows = {tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in card.splitlines() if line.startswith("|")}
    before = {
        (m["temperature"], m["metric"]): m for m in run.summary().document()["metrics"] if m["draft"] == "initial"
    }
    trained = [m for m in run.summary().document()["metrics"] if m["draft"] == "trained"]
    assert len(trained) == 2 * len(RATES)  # at two temperatures
    for m in trained:
        old = before.get((m["temperature"], m["metric"]))
        interval = "-" if m["n_prompts"] < LEAST_PROMPTS else f"{m['low']:.3f} to {m['high']:.3f}"
        first = f"{old['value']:.3f}" if old else ""
        row = (f"{m['temperature']:g}", m["metric"], first, f"{m['value']:.3f}", interval)
        assert (*row, str(m["n_prompts"]), str(m["n_tokens"])) in rows
    assert f"{run.summary().document()['speed']['speedup']['value']:.2f}x plain decoding" in card
    assert "certificate: passed" in card
    assert run.id in card


def test_the_model_card_tells_nobody_where_the_target_lay(run: RunFolder):
    recipe: Recipe = run.recipe()
    card = model_card(run.id, recipe, run.summary(), Provenance())
    assert "`tiny-target`" in card
    assert str(Path(recipe.target.model).parent) not in card
    assert public_name("hub:org/name") == "org/name"
    assert public_name("asset:smollm2-135m-instruct") == "asset:smollm2-135m-instruct"


@pytest.fixture
def strange_recipe(recipe: Path, tiny_target_folder: Path, tmp_path: Path) -> list[str]:
    """A recipe on a target with generation settings of its own, measured on a single prompt."""
    target = tmp_path / "strange-target"
    shutil.copytree(tiny_target_folder, target)
    settings = {"eos_token_id": 1, "repetition_penalty": 1.3, "cache_implementation": "static", "temperature": 0.3}
    (target / "generation_config.json").write_text(json.dumps(settings))
    one = ("heldout_prompts=1", "trace_prompts=1", "speed_prompts=1")
    return [str(recipe), "--set", f"target.model={target}", *(part for s in one for part in ("--set", f"measure.{s}"))]


def test_one_prompt_and_a_target_with_settings_of_its_own_are_exported(
    strange_recipe: list[str], tmp_path: Path, draftbench: Draftbench
):
    done = draftbench("run", *strange_recipe)
    assert done.code == 0, done.err
    assert "not known to be faster" in done.out
    report = export(draftbench, tmp_path / "out")
    assert report["ok"]
    assert report["same_greedy_text"] == "2 of 2"
    assert "repetition_penalty 1.3" in report["notes"][0]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| - | 1 |" in card, "a single prompt has no interval"
    assert "repetition_penalty 1.3" in card
    assert "None" not in card
    assert "nan" not in card
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert "repetition_penalty" not in written
    assert "cache_implementation" not in written
    assert (written["eos_token_id"], written["num_assistant_tokens"]) == ([1], 3)
    shown = draftbench("export", "latest", "--out", str(tmp_path / "again"), "--no-check")
    assert "note: the model's own generation settings ask for repetition_penalty 1.3" in " ".join(shown.out.split())


def away(run: RunFolder, tmp_path: Path, *, captures: bool, prompts: bool) -> None:
    """The run as another machine sees it: without the captures, and with prompt files that are not there."""
    if captures:
        shutil.rmtree(home().captures)
    if prompts:
        recipe = yaml.safe_load((run.path / "config.yaml").read_text())
        for part in ("train", "heldout"):
            recipe["prompts"][part][0]["path"] = str(tmp_path / "nowhere.jsonl")
        (run.path / "config.yaml").write_text(yaml.safe_dump(recipe))


def test_a_run_whose_captures_are_elsewhere_is_checked_on_its_prompts(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    away(run, tmp_path, captures=True, prompts=False)
    report = export(draftbench, tmp_path / "out")
    assert report["ok"]
    assert report["checked_on"].startswith("the run's 5 held-out prompts")


def test_a_run_whose_prompts_are_elsewhere_is_checked_on_what_is_at_hand(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    away(run, tmp_path, captures=True, prompts=True)
    report = export(draftbench, tmp_path / "out")
    assert report["ok"]
    assert report["checked_on"].startswith("the first 6 of 5 questions that the run stored")
    assert "sample_data/prompts/general/heldout.jsonl" in report["checked_on"]
    assert "nowhere.jsonl" in report["checked_on"]
    assert {row["n_prompts"] for row in report["checked"]} == {6}
    assert all(row["difference"] == pytest.approx(0, abs=1e-6) for row in report["checked"])


def test_the_check_compares_with_the_draft_not_with_a_figure_of_other_text(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    summary = json.loads(run.summary_path.read_text())
    for row in summary["metrics"]:
        row["value"] = 0.999
    run.summary_path.write_text(json.dumps(summary))
    away(run, tmp_path, captures=True, prompts=True)
    assert export(draftbench, tmp_path / "out")["ok"]


def test_a_run_without_provenance_is_exported(run: RunFolder, tmp_path: Path, draftbench: Draftbench):
    (run.path / "provenance.json").unlink()
    assert export(draftbench, tmp_path / "out", "--no-check")["ok"]


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_card_of_figures_without_intervals_or_values(run: RunFolder, missing: float | None):
    summary = run.summary().document()
    for row in summary["metrics"]:
        row["low"] = row["high"] = missing
    summary["metrics"][-1]["value"] = missing
    summary["speed"] |= {"cost_ratio": missing, "speedup": dict.fromkeys(("value", "low", "high"), missing)}
    card = model_card(run.id, run.recipe(), Summary.parse(summary)[0], Provenance())
    assert "None" not in card
    assert "nan" not in card


def test_a_card_says_how_tokens_were_proposed_and_leaves_out_what_is_not_known(run: RunFolder):
    """A measurement with argmax proposals and an adaptive gamma had the card of one without; an early one said
    'gamma None, None on None, top-p nan'."""
    document = run.summary().document()
    document["conditions"] |= {"adaptive": True, "proposals": "argmax", "num_draft_tokens": 5}
    card = model_card(run.id, run.recipe(), Summary.parse(document)[0], Provenance())
    assert "Conditions: gamma up to 5, by the acceptance, argmax proposals, " in card
    document["conditions"] = {"seed": 7}
    for row in document["metrics"]:
        row.pop("n_tokens")
    card = model_card(run.id, run.recipe(), Summary.parse(document)[0], Provenance())
    assert "Conditions: seed 7. " in card
    assert not {"None", "nan"} & set(re.findall(r"\w+", card))


def test_an_export_that_is_stopped_while_it_writes_ends_soon_and_leaves_nothing(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    def stopped(folder: Path, *_: Any, **__: Any) -> None:
        (folder / "half").write_text("a part of the weights")
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            time.sleep(0.1)  # a call that lasts would end the process of the tests

    monkeypatch.setattr(huggingface, "write", stopped)
    (tmp_path / "out").mkdir()
    began = time.monotonic()
    result = draftbench("export", "latest", "--out", str(tmp_path / "out" / "draft"), "--json")
    assert result.code == 130
    assert time.monotonic() - began < 15
    steps = [line for line in result.err.splitlines() if line.startswith("step ")]
    assert steps == [f"step {number} of 7: {words}" for number, words in enumerate(STEPS[:4], 1)]
    assert steps[-1].endswith(WRITE)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_place_where_no_folder_can_appear_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "mounted").mkdir()
    said = {"file/out": "cannot make", "link": "is a link to nothing"}
    for name, what in said.items():
        with pytest.raises(DraftbenchError, match=what):
            folder.refuse_taken(tmp_path / name, overwrite=False)
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "mounted")
    with pytest.raises(DraftbenchError, match="is a mount point") as error:
        folder.refuse_taken(tmp_path / "mounted", overwrite=False)
    assert str(tmp_path / "mounted" / "draft") in error.value.fix
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for name in ("out", "further/down"):
        with pytest.raises(DraftbenchError, match="not allowed to write"):
            folder.refuse_taken(tmp_path / name, overwrite=False)
    assert (folder.taken(home(), tmp_path / "out", False) or {})["what"] == f"not allowed to write {tmp_path / 'out'}"


def test_what_came_to_the_folder_while_it_was_written_is_not_replaced(tmp_path: Path):
    """Two exports to one folder, or a folder that somebody made meanwhile: the last to end replaced the other."""
    out = tmp_path / "out"

    def slow(new: Path) -> None:
        (new / "second").touch()
        folder.write_folder(out, "---\ntags: [draftbench]\n---\n", lambda first: (first / "first").touch())

    with pytest.raises(DraftbenchError, match="is not empty"):
        folder.write_folder(out, "", slow)
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "first"]
    assert list(tmp_path.iterdir()) == [out]


def test_what_is_half_written_is_removed_where_the_process_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    half = tmp_path / ".draft.x"
    half.mkdir()
    monkeypatch.setattr(folder, "_at_work", [half])
    folder.remove_half()
    assert not half.exists()


def test_an_export_says_at_once_that_the_libraries_are_being_loaded(run: RunFolder):
    """The page shows what is printed; before the first step it could only say "getting ready", for twenty seconds."""
    script = (
        "import sys; from engine import progress\n"
        "progress.Progress.note = lambda self, text: sys.exit(f'{text}, torch: {\"torch\" in sys.modules}')\n"
        f"from engine.cli.app import app; app(['export', {run.id!r}, '--out', 'unused'])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == f"step 1 of {len(STEPS)}: {LIBRARIES}, torch: False"
