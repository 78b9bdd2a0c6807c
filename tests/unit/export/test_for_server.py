"""`draftbench export --for SERVER`: preflight, target, start command; and GGUF through the same check."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from gguf import GGUFReader

from engine.config.reading import dump_recipe, parse_recipe
from engine.config.schema import ModelSpec
from engine.export import whole_vocabulary
from engine.export.check import ALLOWED
from engine.export.facts import Asked, ModelFacts, Pair
from engine.export.for_server import Plan, Wishes, fitted, target_form, write_beside
from engine.export.gguf import load_gguf
from engine.export.model_card import code, public_name
from engine.export.preflight import preflight
from engine.fileio import read_json, write_json
from engine.models.load import load_model
from engine.records.provenance import Provenance
from engine.runs.folder import RunFolder
from tests.conftest import CHATML, byte_tokenizer, tiny_llama
from tests.tiny_pair import loaded
from tests.unit.conftest import Draftbench
from tests.unit.export.conftest import export

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("server", ["transformers", "vllm", "sglang", "tensorrt-llm"])
def test_a_folder_for_a_server_holds_what_starts_it(
    server: str, run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    report = export(draftbench, tmp_path / "out", "--for", server, "--no-check", "--context", "256", "--gamma", "2")
    starts = tmp_path / "out" / ("serve.py" if server == "transformers" else "serve.sh")
    assert starts.stat().st_mode & 0o044
    assert report["served"]["preflight"] == []
    assert (report["served"]["gamma"], report["served"]["target"]) == (2, "none")
    assert str(tmp_path / "out") in report["served"]["command"]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "## Serve with" in card
    assert str(tmp_path) not in card, "a card is published"
    assert any("The target is not in the folder" in note for note in report["notes"])
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written["num_assistant_tokens"] == 2
    if server == "tensorrt-llm":
        settings = yaml.safe_load((tmp_path / "out" / "speculative.yaml").read_text())
        assert settings["speculative_config"]["speculative_model"] == str(tmp_path / "out")


def test_the_whole_target_goes_along_if_asked(run: RunFolder, tmp_path: Path, draftbench: Draftbench):
    report = export(draftbench, tmp_path / "out", "--for", "vllm", "--target", "merged", "--no-check")
    target = load_model(run.recipe().target, dtype="float32")
    copy = load_model(ModelSpec(model=str(tmp_path / "out" / "target"), dtype="float32"))
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(copy.model(ids).logits, target.model(ids).logits)
    assert f"{tmp_path}/out/target" in report["served"]["command"]
    assert 'TARGET="$HERE"/target ;;' in (tmp_path / "out" / "serve.sh").read_text()


@pytest.mark.parametrize("command", [("--for", "vllm", "--preflight"), ("--for", "vllm"), ()])
def test_a_target_that_was_replaced_since_the_run_is_refused(
    command: tuple[str, ...], run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    then = read_json(run.path / "target.json")
    files = then["files"] | {"model.safetensors": "0" * 64}
    write_json(run.path / "target.json", then | {"files": files})
    result = draftbench("export", "latest", "--out", str(tmp_path / "out"), "--json", *command)
    assert result.code == 2
    assert "is not the one it began with: model.safetensors has changed" in result.json()["error"]["what"]
    assert not (tmp_path / "out").exists()


def test_a_run_of_before_is_exported_and_its_other_fingerprint_is_said(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    (run.path / "target.json").unlink()
    said = "the target's files are not those of before"
    notes = export(draftbench, tmp_path / "same", "--for", "vllm", "--no-check")["notes"]
    assert not any(said in note for note in notes)
    (Provenance.read_or_empty(run.path).model_copy(update={"target_fingerprint": "0" * 64})).write(run.path)
    for place, more in (("server", ("--for", "vllm")), ("plain", ())):
        notes = export(draftbench, tmp_path / place, "--no-check", *more)["notes"]
        assert sum(said in note for note in notes) == 1
    assert not (run.path / "target.json").exists()


def test_preflight_says_that_the_folder_is_taken(run: RunFolder, tmp_path: Path, draftbench: Draftbench):
    out = tmp_path / "out"
    out.mkdir()
    ask = ("export", "latest", "--for", "vllm", "--preflight", "--out", str(out))
    assert draftbench(*ask, "--json").json()["folder"] is None
    (out / "mine").write_text("mine")
    result = draftbench(*ask, "--json")
    assert (result.code, result.json()["preflight"]) == (1, [])
    assert "something other than an export of Draftbench" in result.json()["folder"]["what"]
    shown = draftbench(*ask)
    assert shown.code == 1
    assert "serves this pair" in shown.out
    assert "something other than an export of Draftbench" in " ".join(shown.out.split())
    (out / "mine").unlink()
    (out / "README.md").write_text("---\ntags: [draftbench]\n---\n")
    assert "is not empty" in draftbench(*ask, "--json").json()["folder"]["what"]
    assert draftbench(*ask, "--overwrite").code == 0


def test_preflight_alone_writes_nothing_and_fails_where_the_server_would_refuse(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    right = draftbench("export", "latest", "--for", "vllm", "--preflight", "--json")
    assert (right.code, right.json()["preflight"]) == (0, [])
    wrong = draftbench("export", "latest", "--for", "vllm", "--preflight", "--tensor-parallel", "3")
    assert wrong.code == 1
    assert "(4) must be divisible by tensor parallel size (3)" in " ".join(wrong.out.split())
    refused = draftbench("export", "latest", "--for", "vllm", "--tensor-parallel", "3", "--out", str(tmp_path / "x"))
    assert refused.code == 2
    assert "would not serve this pair" in refused.err
    assert not (tmp_path / "x").exists()


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """A copy of the run's target with 62 more rows that no token uses, in a folder with a hostile name."""
    folder = tmp_path / "padded $(touch pwned) `id`"
    tiny_llama(vocab=320).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("server", ["vllm", "sglang", "transformers"])
def test_the_served_copy_is_in_the_command_and_its_rows_are_those_of_the_draft(
    server: str, run: RunFolder, padded: Path, draftbench: Draftbench
):
    result = draftbench("export", "latest", "--for", server, "--preflight", "--json", "--served-target", str(padded))
    report = result.json()
    assert (result.code, report["preflight"]) == (0, [])
    assert str(padded) in shlex.split(report["command"])
    assert f"The target is not in the folder: {padded.name}, a folder or a name on the hub." in report["notes"]
    assert (
        "The draft has 320 rows, as this target has; in the run it has 258. No token uses the others."
        in report["notes"]
    )
    assert run.recipe().target.model not in str(report)


def test_the_target_of_a_run_that_learnt_from_a_server_is_the_served_model(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    """The command started the model at hand that the draft was made of, perhaps the base of the served one."""
    recipe = run.recipe()
    document = recipe.model_dump()
    document["capture"] |= {"signal": "none", "server": {"base_url": "http://127.0.0.1:9/v1", "model": "our fine-tune"}}
    document["train"]["loss"] = "sft"
    document["measure"]["against"] = "server"
    changed = parse_recipe(document)
    (run.path / "config.yaml").write_text(dump_recipe(changed), encoding="utf-8")
    ask = ("export", "latest", "--for", "vllm", "--preflight", "--json")
    (finding,) = draftbench(*ask).json()["preflight"]
    assert (finding["level"], "our fine-tune" in finding["what"]) == ("warning", True)
    assert draftbench(*ask, "--served-target", recipe.target.model).json()["preflight"] == []


def test_another_model_with_the_same_ids_is_no_copy_of_the_target(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    """It was called a pair that the server serves, with the figures of the run's own target."""
    other = tmp_path / "other"
    tiny_llama(layers=2).save_pretrained(other)
    byte_tokenizer(CHATML.replace("assistant", "bot")).save_pretrained(other)
    result = draftbench("export", "latest", "--for", "vllm", "--preflight", "--json", "--served-target", str(other))
    model, template = result.json()["preflight"]
    assert (result.code, model["level"], template["level"]) == (0, "warning", "warning")
    assert "other is another model than the run's target: LlamaForCausalLM, 2 layers" in model["what"]
    assert "not LlamaForCausalLM, 4 layers, 32 wide, 4 heads" in model["what"]
    assert template["what"] == "other has another chat template"


def test_the_exported_draft_has_the_rows_of_the_served_copy(
    run: RunFolder, padded: Path, tmp_path: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    # the states of a random draft have no mean direction, so no row is low at all of them
    monkeypatch.setattr(whole_vocabulary, "_never_proposed", lambda head, states: torch.full((32,), 0.5))
    out = tmp_path / "out"
    report = export(draftbench, out, "--for", "vllm", "--served-target", str(padded))
    assert report["ok"]
    draft = load_model(ModelSpec(model=str(out), dtype="float32")).model
    assert draft.config.vocab_size == len(draft.get_output_embeddings().weight) == 320
    assert torch.equal(draft.get_output_embeddings().weight[258:], torch.full((62, 32), 0.5))
    assert f"give the target: {padded.name}" in (out / "serve.sh").read_text()


def test_rows_that_no_token_uses_are_left_out_or_added():
    tokens = tuple(map(str, range(300)))
    facts = ModelFacts("m", "LlamaForCausalLM", 320, tokens)
    for rows in (300, 384, 2000):
        assert fitted("vllm", Pair(replace(facts, rows=rows), facts)).draft.rows == rows
    fewer = Pair(replace(facts, rows=299, tokens=tokens[:299]), facts)
    other = Pair(replace(facts, rows=384, tokens=("other", *tokens[1:])), facts)
    for pair in (fewer, other):
        assert fitted("vllm", pair) == pair
        (refused, *_) = preflight("vllm", pair, Asked())
        assert "--served-target" not in refused.fix
    assert fitted("llama.cpp", Pair(replace(facts, rows=448), facts)).draft.rows == 320  # it takes 128 more
    assert fitted("llama.cpp", Pair(replace(facts, rows=449), facts)).draft.rows == 449


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--for", "vllm", "--target", "merged"), "the server has its target already"),
        (("--for", "llama.cpp"), "its weights are safetensors, and llama.cpp loads gguf"),
    ],
)
def test_a_served_copy_that_would_not_be_used_is_refused(
    options: tuple[str, ...], why: str, run: RunFolder, padded: Path, draftbench: Draftbench
):
    result = draftbench("export", "latest", "--preflight", "--json", "--served-target", str(padded), *options)
    assert (result.code, result.json()["error"]["why"]) == (2, why)


def test_a_revision_of_the_hub_is_not_started_as_its_newest_state(tmp_path: Path):
    made = replace(tuned_plan("vllm", tmp_path), spec=ModelSpec(model="hub:org/base", revision="v1"))
    assert made.target_place() is None
    assert made.needs() == "org/base at revision v1, a folder or a name on the hub"


def test_llama_cpp_refuses_a_tokenizer_without_merges(run: RunFolder, tmp_path: Path, draftbench: Draftbench):
    wrong = draftbench("export", "latest", "--for", "llama.cpp", "--preflight", "--json")
    assert wrong.code == 1
    assert [f["reason"] for f in wrong.json()["preflight"]] == ["cannot find tokenizer merges in model file"]


@pytest.mark.parametrize(("precision", "least", "most"), [("f32", 0, 1e-6), ("f16", 0, 1e-3), ("q8_0", 1e-6, 5e-2)])
def test_gguf_goes_through_the_same_check(
    precision: str, least: float, most: float, run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    report = export(draftbench, tmp_path / "out", "--format", "gguf", "--gguf", precision)
    assert report["ok"]
    assert report["same_greedy_text"] == "4 of 4"
    for row in report["checked"]:
        assert row["allowed"] == ALLOWED[precision]
        assert least <= row["difference"] <= most
    assert (tmp_path / "out" / f"draft-{precision}.gguf").is_file()


def test_a_gguf_file_that_is_another_draft_fails_the_check(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    from engine.export import gguf_file

    monkeypatch.setattr(gguf_file, "rotary_pairs_together", lambda rows, heads: rows)
    result = draftbench("export", "latest", "--out", str(tmp_path / "out"), "--format", "gguf", "--json")
    assert (result.code, result.json()["ok"]) == (1, False)


def test_llama_cpp_gets_both_models_as_files(run: RunFolder, tmp_path: Path, draftbench: Draftbench):
    # the pair of the run, written by the same functions that the command calls after its preflight
    from engine.export.gguf import write_model
    from engine.runs.session import load_target

    target = load_target(run.recipe())
    file = write_model(tmp_path, "target", target.model, target, "f16")
    back = load_gguf(file.path, torch.float32, torch.device("cpu"))
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(back(ids).logits, target.model.float()(ids).logits, atol=0.05)
    fields = {key: field.contents() for key, field in GGUFReader(file.path).fields.items()}
    assert fields["general.name"] == "target"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--for", "vllm", "--format", "gguf"), "--for and --format gguf"),
        (("--gamma", "2"), "an option for a server without --for"),
        (("--tensor-parallel", "2"), "an option for a server without --for"),
        (("--tensor-parallel", "1"), "an option for a server without --for"),
        (("--preflight",), "an option for a server without --for"),
        (("--for", "vllm", "--gguf", "f16"), "--gguf f16 for vLLM"),
        (("--gguf", "f16"), "precision 'f16' of the format huggingface"),
        (("--format", "gguf", "--gguf", "q5"), "precision 'q5' of the format gguf"),
        (("--for", "llama.cpp", "--gguf", "q5"), "unknown precision 'q5'"),
        (("--format", "onnx"), "unknown export format 'onnx'"),
    ],
)
def test_options_that_would_not_be_used_are_refused(
    options: tuple[str, ...], what: str, run: RunFolder, tmp_path: Path, draftbench: Draftbench
):
    result = draftbench("export", "latest", "--out", str(tmp_path / "out"), "--json", *options)
    assert result.code == 2
    assert result.json()["error"]["what"].startswith(what)
    assert result.json()["error"]["fix"]
    assert not (tmp_path / "out").exists()


def test_a_quantiser_that_fails_leaves_nothing(
    run: RunFolder, tmp_path: Path, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'no room on the device' >&2\nexit 3\n", encoding="utf-8")
    program.chmod(0o755)
    out = ("export", "latest", "--out", str(tmp_path / "out"), "--format", "gguf", "--gguf", "q4_k_m", "--json")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    absent = draftbench(*out)
    assert (absent.code, "llama-quantize is not on the path" in absent.json()["error"]["what"]) == (2, True)
    monkeypatch.setenv("PATH", str(program.parent))
    failed = draftbench(*out)
    assert failed.code == 2
    assert failed.json()["error"]["why"] == "no room on the device"
    assert not (tmp_path / "out").exists()


def tuned_plan(server: str, tmp_path: Path, **asked: Any) -> Plan:
    """A plan for a target that is an adapter on a folder of safetensors."""
    adapter = tmp_path / "biology"
    adapter.mkdir(exist_ok=True)
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 12}')
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "training_args.bin").write_bytes(b"pickle")
    spec = ModelSpec(model="hub:org/base", adapter=str(adapter))
    facts = ModelFacts("m", "LlamaForCausalLM", 3, ("a", "b", "c"), context_tokens=512, adapter_rank=12)
    pair = Pair(facts, replace(facts, adapter_rank=None))
    wished = Asked(target=target_form(Wishes(server), spec), **asked)
    return Plan(server, wished, "argmax", pair, preflight(server, pair, wished), spec)


@pytest.mark.parametrize(
    ("server", "form"),
    [
        ("transformers", "apart"),
        ("vllm", "apart"),
        ("sglang", "merged"),
        ("llama.cpp", "merged"),
        ("tensorrt-llm", "merged"),
    ],
)
def test_an_adapter_goes_along_as_the_server_wants_it(server: str, form: str, tmp_path: Path):
    made = tuned_plan(server, tmp_path)
    assert made.asked.target == form
    assert made.findings == []


def test_a_base_that_only_llama_cpp_could_load_is_merged_everywhere(tmp_path: Path):
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    spec = ModelSpec(model=str(tmp_path / "base.gguf"), adapter="a")
    assert {target_form(Wishes(server), spec) for server in ("vllm", "transformers", "llama.cpp")} == {"merged"}
    assert target_form(Wishes("vllm"), ModelSpec(model="hub:org/base")) == "none"
    assert target_form(Wishes("vllm", target="none"), spec) == "none"


def test_vllm_gets_the_adapter_in_a_folder_and_no_pickles(tmp_path: Path):
    made = tuned_plan("vllm", tmp_path)
    folder = tmp_path / "new"
    folder.mkdir()
    write_beside(folder, tmp_path / "out", made, loaded(tiny_llama()))
    assert {file.name for file in (folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    text = (folder / "serve.sh").read_text()
    assert "TARGET=org/base ;;" in text
    assert '"$HERE_IN_JSON"' in next(line for line in text.splitlines() if "--lora-modules" in line)
    assert "--max-lora-rank 16" in text
    assert any('"model": "tuned"' in note for note in made.notes())


def test_a_target_that_is_left_out_is_named(tmp_path: Path):
    made = replace(tuned_plan("sglang", tmp_path), asked=Asked(target="none"))
    assert made.target_place() is None
    assert "base with the adapter biology merged into it" in made.needs()
    assert any("--target merged writes one" in note for note in made.notes())


def test_a_name_on_several_lines_is_one_line_of_the_script_and_the_card(tmp_path: Path):
    made = replace(tuned_plan("sglang", tmp_path), asked=Asked(target="none"))
    spec = ModelSpec(model=str(tmp_path / "my `touch pwned`\ntouch pwned"), adapter=str(tmp_path / "a\nb$(id)"))
    made = replace(made, spec=spec)
    named = "my `touch pwned`\u240atouch pwned with the adapter a\u240ab$(id) merged into it"
    assert made.needs() == f"{named}, a folder or a name on the hub"
    assert all("\n" not in note for note in made.notes())
    assert code(public_name(spec.model)) == "`` my `touch pwned`\u240atouch pwned ``"
