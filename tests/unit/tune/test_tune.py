"""Domain targets: the loss sees the reference alone, a killed tuning goes on, and what is served is what was tuned."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.chat.prompt import Prompt
from engine.chat.rendering import end_of_turn, render
from engine.chat.turns import turns_of
from engine.cli.text import tune as reports_tune
from engine.config.schema import ModelSpec, PromptSource
from engine.errors import Cancelled, DraftbenchError
from engine.models.adapter import CONFIG, WEIGHTS
from engine.models.load import load_model, model_fingerprint
from engine.paths import PROJECT_ROOT
from engine.progress import Progress
from engine.tune.adapter import add_adapter
from engine.tune.examples import Encoded, Example, encode, ended, example_set, read_examples
from engine.tune.figures import RATES, Observed, differences
from engine.tune.function_calls import Judgement
from engine.tune.pipeline import measure_again, tune
from engine.tune.recipe import AdapterSpec, TuneData, TuneMeasure, TuneRecipe, TuneTraining
from engine.tune.training import CHECKPOINT, Tuner, reference_losses
from tests.conftest import CHATML, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.slow

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"required": ["a"], "properties": {"a": {}}}}}
DATA = TuneData.model_validate({"train": "x.jsonl", "heldout": "y.jsonl"})


def records(count: int, word: str = "train") -> list[dict[str, Any]]:
    """Records whose references are calls, each prompt unlike the others."""
    return [
        {
            "id": f"{word}-{i}",
            "messages": [{"role": "user", "content": f"{word} {'abcdefghij'[i % 10] * 9} {i * 37}"}],
            "tools": [TOOL],
            "reference": json.dumps({"name": "add", "arguments": {"a": i}}),
        }
        for i in range(count)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def recipe(tmp_path: Path, tiny_target_folder: Path) -> Path:
    """A recipe over a few records that adapts the upper two of four layers in six steps."""
    write(tmp_path / "train.jsonl", records(12))
    write(tmp_path / "heldout.jsonl", records(4, "heldout"))
    values: dict[str, Any] = {
        "name": "tiny",
        "target": {"model": str(tiny_target_folder), "dtype": "float32", "device": "cpu"},
        "data": {"train": "train.jsonl", "heldout": "heldout.jsonl"},
        "adapter": {"rank": 2, "layers": 2},
        "train": {"batch_size": 4, "epochs": 2, "checkpoint_every": 1, "learning_rate": 0.01},
        "measure": {"function_calls": True, "max_new_tokens": 6, "call_records": 3, "bootstrap_samples": 100},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def made(recipe: Path, folder: Path, *settings: str, **options: Any) -> dict[str, Any]:
    return tune(str(recipe), settings, folder, provenance={}, **options)


def rows_of(*pairs: tuple[str, str]) -> list[Encoded]:
    examples = [
        Example(Prompt(f"p{i}", ({"role": "user", "content": prompt},)), reference)
        for i, (prompt, reference) in enumerate(pairs)
    ]
    return encode(byte_tokenizer(), examples, DATA, None)


# -- examples


def test_the_prompt_is_what_serving_renders_and_the_reference_ends_its_turn():
    tokenizer = byte_tokenizer()
    prompt = Prompt("a", ({"role": "user", "content": "hi"},), tools=(TOOL,))
    (row,) = encode(tokenizer, [Example(prompt, "yes")], DATA, None)
    assert row.prompt_ids == render(tokenizer, prompt, context_tokens=None, max_new_tokens=1)
    assert tokenizer.decode(row.reference_ids) == "yes<|im_end|>"
    assert end_of_turn(tokenizer) == tokenizer.eos_token_id


def test_the_end_of_turn_is_that_of_the_template_not_of_the_sequence():
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m['role'] + ':' + m['content'] + '#' }}{% endfor %}")
    assert tokenizer.decode([end_of_turn(tokenizer)]) == "#"


def test_long_prompts_go_and_long_references_are_cut_without_an_end():
    data = DATA.model_copy(update={"max_prompt_tokens": 60, "max_reference_tokens": 5})
    examples = [
        Example(Prompt(name, ({"role": "user", "content": text},)), reference)
        for name, text, reference in (("long", "x" * 60, "a"), ("short", "x", "abcdefgh"), ("both", "x", "abcd"))
    ]
    rows = encode(byte_tokenizer(), examples, data, None)
    assert [row.example.prompt.id for row in rows] == ["short", "both"]
    assert [byte_tokenizer().decode(row.reference_ids) for row in rows] == ["abcde", "abcd<|im_end|>"]


def test_a_record_without_reference_is_refused_or_left_out(recipe: Path, tmp_path: Path):
    write(tmp_path / "train.jsonl", [*records(6), {"id": "bare", "prompt": "What now?"}])
    with pytest.raises(DraftbenchError, match="'bare' has no reference") as caught:
        made(recipe, tmp_path / "out")
    assert "data.unanswered=leave_out" in caught.value.fix
    report = made(recipe, tmp_path / "out", "data.unanswered=leave_out", "train.max_steps=1")
    assert report["data"]["train"]["without_reference"] == 1
    assert report["data"]["train"]["records"] == 6


def test_a_reference_that_was_cut_or_refused_counts_as_none(tmp_path: Path):
    """Its end would be learnt where a limit or a filter put it. A log's import leaves such answers aside as well."""
    endings = {"whole": "end_turn", "cut": "MAX_TOKENS", "refused": "content_filter", "silent": None}
    write(
        tmp_path / "x.jsonl",
        [{"id": name, "prompt": f"{name}?", "reference": "Yes", "finish_reason": e} for name, e in endings.items()],
    )
    sources = [PromptSource(path=str(tmp_path / "x.jsonl"))]
    with pytest.raises(DraftbenchError, match="'cut' has a reference that ended with 'MAX_TOKENS'"):
        read_examples(sources, DATA, None)
    left, _, unanswered = read_examples(sources, DATA.model_copy(update={"unanswered": "leave_out"}), None)
    assert [example.prompt.id for example in left] == ["whole", "silent"]
    assert unanswered == 2


def test_a_heldout_query_is_taken_out_of_training(recipe: Path, tmp_path: Path):
    write(tmp_path / "train.jsonl", [*records(5), {**records(1, "heldout")[0], "id": "leak"}])
    report = made(recipe, tmp_path / "out", "train.max_steps=1")
    assert report["data"]["overlap_removed"] == 1
    assert report["data"]["train"]["records"] == 5


def test_what_was_left_out_is_counted_among_the_records_that_are_used_and_shown(
    recipe: Path, tmp_path: Path, draftbench: Any
):
    leaks = [{**row, "id": f"leak-{i}", "reference": "Yes.<|im_end|>no"} for i, row in enumerate(records(3, "heldout"))]
    silent = {"id": "silent", "prompt": "Well?"}
    write(tmp_path / "train.jsonl", [*records(2), *leaks, silent])
    settings = ("--set", "train.max_steps=1", "--set", "data.unanswered=leave_out")
    shown = draftbench("tune", str(recipe), "--out", str(tmp_path / "out"), *settings)
    assert shown.code == 0, shown.err
    assert "training: 2 records; left out: repeats of a held-out query (3), without a whole reference (1)" in " ".join(
        shown.out.split()
    )
    assert "references go on" not in shown.err
    counts = json.loads((tmp_path / "out" / "tuning.json").read_text())["data"]["train"]
    assert (counts["records"], counts["reference_past_its_end"]) == (2, 0)
    write(tmp_path / "train.jsonl", [silent])
    refused = draftbench("tune", str(recipe), "--out", str(tmp_path / "other"), *settings)
    assert "none of the 1 records" in refused.err


@pytest.mark.parametrize(
    ("reference", "learnt", "cut"),
    [
        ("Yes.<|im_end|>", "Yes.", ""),
        ("Yes.<|im_end|>\n", "Yes.", ""),
        ("Yes.<|im_end|><|im_end|>", "Yes.", ""),
        ("Yes.<|im_end|>\n<|im_start|>user\nAnd?", "Yes.", "<|im_start|>user\nAnd?"),
        ("Yes.", "Yes.", ""),
    ],
)
def test_a_reference_ends_with_its_first_end_of_turn(reference: str, learnt: str, cut: str):
    tokenizer = byte_tokenizer()
    example = Example(Prompt("a", ({"role": "user", "content": "hi"},)), reference)
    clean = ended(tokenizer, example, turns_of(tokenizer))
    assert (clean.reference, clean.cut) == (learnt, cut)
    (row,) = encode(tokenizer, [clean], DATA, None)
    assert tokenizer.decode(row.reference_ids) == "Yes.<|im_end|>"


def test_a_blank_that_the_template_writes_before_the_mark_is_not_doubled():
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m['content'] + ' <|im_end|>' }}{% endfor %}")
    turns = turns_of(tokenizer)
    for reference in ("Yes.", "Yes.<|im_end|>", "Yes. <|im_end|>"):
        example = ended(tokenizer, Example(Prompt("a", ({"role": "user", "content": "hi"},)), reference), turns)
        (row,) = encode(tokenizer, [example], DATA, None, turns)
        assert tokenizer.decode(row.reference_ids) == "Yes. <|im_end|>"


def test_a_template_without_the_header_of_an_answer_is_refused(recipe: Path, tmp_path: Path):
    tiny_llama().save_pretrained(tmp_path / "plain")
    byte_tokenizer(CHATML.partition("{% if")[0]).save_pretrained(tmp_path / "plain")
    with pytest.raises(DraftbenchError, match=r"writes '<\|im_start\|>assistant") as caught:
        made(recipe, tmp_path / "out", f"target.model={tmp_path / 'plain'}")
    assert "add_generation_prompt" in caught.value.fix


def test_references_that_go_on_after_their_end_are_counted(tmp_path: Path):
    rows = [{"id": str(i), "prompt": f"{i}?", "reference": "Yes.<|im_end|>\nuser: no" * (i < 2)} for i in range(3)]
    write(tmp_path / "x.jsonl", [*rows, {"id": "mark", "prompt": "?", "reference": "<|im_end|>"}])
    sources = [PromptSource(path=str(tmp_path / "x.jsonl"))]

    def read(unanswered: str) -> dict[str, int]:
        data = DATA.model_copy(update={"unanswered": unanswered})
        return example_set(byte_tokenizer(), sources, data, beside=None, context_tokens=None).counts

    assert read("leave_out") == {
        "records": 2,
        "without_reference": 2,
        "prompt_too_long": 0,
        "reference_cut": 0,
        "reference_past_its_end": 2,
    }
    write(tmp_path / "x.jsonl", [{"id": "mark", "prompt": "?", "reference": "<|im_end|>"}])
    with pytest.raises(DraftbenchError, match="'mark' has a reference with nothing before its end of turn"):
        read("refuse")


# -- loss and adapter


def test_the_loss_is_that_of_the_reference_alone():
    model = tiny_llama()
    (row,) = rows_of(("hello", "ok then"))
    ids = torch.tensor([[*row.prompt_ids, *row.reference_ids]])
    logprobs = model(ids).logits.double().log_softmax(-1)[0]
    first = len(row.prompt_ids)
    wanted = [-float(logprobs[first - 1 + i, token]) for i, token in enumerate(row.reference_ids)]
    (losses,) = reference_losses(model, [row])
    assert losses.tolist() == pytest.approx(wanted, abs=1e-4)


def test_padding_does_not_change_a_loss():
    model = tiny_llama()
    rows = rows_of(("a", "short"), ("a much longer question than that", "and a longer answer"))
    together = reference_losses(model, rows)
    for row, losses in zip(rows, together, strict=True):
        assert losses.tolist() == pytest.approx(reference_losses(model, [row])[0].tolist(), abs=1e-4)


def tuner(folder: Path, rows: list[Encoded], **changes: Any) -> Tuner:
    settings = TuneTraining(**{"batch_size": 4, "epochs": 2, "checkpoint_every": 1, "learning_rate": 0.01, **changes})
    model = add_adapter(tiny_llama(), AdapterSpec(rank=2, layers=2), base_name="asset:x", seed=0)
    return Tuner(model, rows, settings, folder, identity="i")


def weights(made_by: Tuner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in made_by.masters.outside.items()}


ROWS = [(f"question {i} {'x' * i}", f"answer {i * 3}") for i in range(9)]


def test_micro_batches_change_nothing(tmp_path: Path):
    whole, parts = (tuner(tmp_path / str(n), rows_of(*ROWS), micro_batch_tokens=n) for n in (10_000, 1))
    whole.run()
    parts.run()
    for name, tensor in weights(whole).items():
        assert torch.allclose(tensor, weights(parts)[name], atol=2e-4), name


def test_only_the_upper_layers_are_adapted_and_nothing_shared_with_a_draft(tmp_path: Path):
    names = weights(tuner(tmp_path, rows_of(*ROWS))).keys()
    assert names
    assert all(".layers.2." in name or ".layers.3." in name for name in names)
    with pytest.raises(ValueError, match="shared by target and draft"):
        AdapterSpec(modules=["q_proj", "lm_head"])


def test_a_model_without_the_named_layers_is_refused():
    with pytest.raises(DraftbenchError, match="no linear layers called 'q_projj'") as caught:
        add_adapter(tiny_llama(), AdapterSpec(modules=["q_projj"]), base_name="x", seed=0)
    assert "did you mean 'q_proj'" in caught.value.fix


def test_training_stopped_anywhere_ends_in_the_same_adapter(tmp_path: Path):
    unbroken = tuner(tmp_path / "a", rows_of(*ROWS))
    unbroken.run()
    for _ in range(20):  # a new process each time: everything comes from the file
        part = tuner(tmp_path / "b", rows_of(*ROWS))
        part.progress = Progress(quiet=True, stop_wanted=lambda: True)
        try:
            part.run()
            break
        except Cancelled:
            continue
    assert part.trained.steps_done == part.trained.steps == unbroken.trained.steps
    assert part.trained.tokens_seen == unbroken.trained.tokens_seen
    for name, tensor in weights(unbroken).items():
        assert torch.equal(tensor, weights(part)[name]), name


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path):
    tuner(tmp_path, rows_of(*ROWS)).run()
    other = tuner(tmp_path, rows_of(*ROWS))
    other.identity = "another"
    with pytest.raises(DraftbenchError, match="belongs to another recipe"):
        other.run()


# -- the whole


def test_tuning_leaves_an_adapter_that_loads_as_it_was_trained_and_its_record(recipe: Path, tmp_path: Path):
    folder = tmp_path / "out"
    report = made(recipe, folder)
    assert {path.name for path in folder.iterdir()} - {".lock"} == {WEIGHTS, CONFIG, "tuning.json", "curve.jsonl"}
    assert report["training"]["steps_done"] == report["training"]["steps"] == 6
    before, after = (report["figures"][side]["perplexity"] for side in ("before", "after"))
    assert after["value"] < before["value"]
    assert before["n_prompts"] == 4
    assert report["figures"]["after"]["function_calls"]["valid"]["n_prompts"] == 3
    assert str(tmp_path) not in (folder / CONFIG).read_text(encoding="utf-8").replace(
        report["recipe"]["target"]["model"], ""
    )
    assert made(recipe, folder) == report, "a finished target is not made again"
    again = measure_again(str(recipe), [], str(folder))
    assert again["figures"] == report["figures"]


def test_a_difference_is_paired_record_by_record():
    settings = TuneMeasure(function_calls=True, bootstrap_samples=200)
    yes, no = Judgement("", names_match=True, arguments_match=True), Judgement("prose")
    before = Observed([1.0, 40.0, 7.0], [10, 20, 10], judged=[no, yes, no])
    after = Observed([0.0, 38.0, 6.0], [10, 20, 10], judged=[yes, yes, yes])
    found = differences(before, after, settings)
    nats = found["logprob_per_token"]
    assert [nats[key] for key in ("value", "low", "high")] == pytest.approx(
        [0.1] * 3
    )  # however far apart the records lie
    assert nats["n_prompts"] == 3
    assert {rate: found["function_calls"][rate]["value"] for rate in RATES} == pytest.approx(
        dict.fromkeys(RATES, 2 / 3)
    )
    same = differences(before, before, settings)["function_calls"]["valid"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)


def test_the_difference_agrees_with_the_figures_before_and_after(recipe: Path, tmp_path: Path):
    report = made(recipe, tmp_path / "out")["figures"]
    before, after = (report[side]["perplexity"]["value"] for side in ("before", "after"))
    found = report["difference"]
    assert found["logprob_per_token"]["value"] == pytest.approx(math.log(before / after))
    assert found["logprob_per_token"]["low"] > 0
    rates = [report[side]["function_calls"]["valid"]["value"] for side in ("before", "after")]
    assert found["function_calls"]["valid"]["value"] == pytest.approx(rates[1] - rates[0])


def test_a_target_without_differences_is_still_reported(capsys: pytest.CaptureFixture[str]):
    shipped = PROJECT_ROOT / "sample_data" / "targets" / "function_calling" / "tuning.json"
    reports_tune.target(json.loads(shipped.read_text(encoding="utf-8")))
    assert "valid calls" in capsys.readouterr().out


@pytest.mark.parametrize("checkpoint_every", [4, 100])
def test_a_curve_tells_each_step_once_however_often_training_began(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_every: int
):
    settings = (f"train.checkpoint_every={checkpoint_every}", "measure.function_calls=false")
    one_step = Tuner._step

    def killed(self: Tuner, step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt
        one_step(self, step)

    monkeypatch.setattr(Tuner, "_step", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            made(recipe, tmp_path / "out", *settings)
    with open(tmp_path / "out" / "curve.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')  # torn
    monkeypatch.undo()
    made(recipe, tmp_path / "out", *settings)
    made(recipe, tmp_path / "unbroken", *settings)
    broken, unbroken = (
        [json.loads(line) for line in (tmp_path / name / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("out", "unbroken")
    )
    assert [row["step"] for row in broken] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in broken] == [row["loss"] for row in unbroken]


def test_the_same_recipe_makes_the_same_bytes(recipe: Path, tmp_path: Path):
    for name in ("a", "b"):
        made(recipe, tmp_path / name, "measure.function_calls=false")
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_embeddings_and_head_stay_those_of_the_base_and_the_record_is_no_part_of_its_identity(
    recipe: Path, tmp_path: Path, tiny_target_folder: Path
):
    folder = tmp_path / "out"
    made(recipe, folder, "measure.function_calls=false")
    base = ModelSpec(model=str(tiny_target_folder), dtype="float32", device="cpu")
    tuned = base.model_copy(update={"adapter": str(folder)})
    left, right = (load_model(spec).model.state_dict() for spec in (base, tuned))
    changed = {name for name, tensor in left.items() if not torch.equal(tensor, right[name])}
    assert changed
    assert all(".layers.2." in name or ".layers.3." in name for name in changed)
    found = model_fingerprint(tuned)
    (folder / "tuning.json").unlink()
    assert model_fingerprint(tuned) == found != model_fingerprint(base)


def test_a_folder_with_something_else_is_left_alone(recipe: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(DraftbenchError, match=r"holds thesis\.txt"):
        made(recipe, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    with pytest.raises(DraftbenchError, match="is a file"):
        made(recipe, tmp_path / "out" / "thesis.txt")


def test_a_folder_with_another_target_is_left_alone(recipe: Path, tmp_path: Path):
    made(recipe, tmp_path / "out", "train.max_steps=1", "measure.function_calls=false")
    before = (tmp_path / "out" / WEIGHTS).read_bytes()
    with pytest.raises(DraftbenchError, match="target of another recipe"):
        made(recipe, tmp_path / "out", "train.max_steps=2")
    (tmp_path / "out" / "tuning.json").unlink()
    with pytest.raises(DraftbenchError, match="an adapter without its record"):
        made(recipe, tmp_path / "out", "train.max_steps=1")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == before


def test_a_call_killed_between_adapter_and_figures_trains_no_second_time(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_figures(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.tune.pipeline.measured", no_figures)
    with pytest.raises(KeyboardInterrupt):
        made(recipe, tmp_path / "out")
    before = (tmp_path / "out" / WEIGHTS).read_bytes()
    monkeypatch.undo()
    monkeypatch.setattr("engine.tune.pipeline.add_adapter", no_figures)
    report = made(recipe, tmp_path / "out", progress=Progress(quiet=True))
    assert report["training"]["steps_done"] == 6
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == before


def test_a_wrong_key_names_the_nearest():
    from engine.config.reading import parse_section

    with pytest.raises(DraftbenchError, match="did you mean 'rank'"):
        parse_section(TuneRecipe, {"name": "x", "data": {"train": "a", "heldout": "b"}, "adapter": {"rnak": 2}})


@pytest.mark.parametrize(("target", "why"), [({"adapter": "y"}, "plain model"), ({"dtype": "float16"}, "vanish")])
def test_a_target_that_cannot_be_tuned_is_refused(target: dict[str, str], why: str):
    with pytest.raises(ValueError, match=why):
        TuneRecipe.model_validate({"name": "x", "target": target, "data": {"train": "a", "heldout": "b"}})


def test_the_shipped_recipes_are_valid():
    from engine.config.reading import load_section

    files = sorted((PROJECT_ROOT / "recipes" / "targets").glob("*.yaml"))
    assert [load_section(TuneRecipe, file).name for file in files] == ["biology", "chinese", "function_calling"]


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill_and_ends_as_if_unbroken(recipe: Path, tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "engine",
        "tune",
        str(recipe),
        "--json",
        "--set",
        "train.epochs=20",
        "--set",
        "measure.function_calls=false",
        "--out",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        [*command, str(tmp_path / "killed")], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / CHECKPOINT).exists():
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / WEIGHTS).exists(), "killed while it trained"
    done = [
        subprocess.run([*command, str(tmp_path / name)], env=environment, capture_output=True, text=True, check=True)
        for name in ("killed", "unbroken")
    ]
    assert "resumed after step" in done[0].stderr
    report = [json.loads(result.stdout) for result in done]
    assert report[0]["adapter"] == report[1]["adapter"]
    assert report[0]["figures"] == report[1]["figures"]
    assert report[0]["training"]["tokens_seen"] == report[1]["training"]["tokens_seen"]


def test_the_command_tells_the_figures_and_repeats_them_without_writing(draftbench: Any, recipe: Path, tmp_path: Path):
    folder = tmp_path / "out"
    first = draftbench("tune", str(recipe), "--out", str(folder))
    assert first.code == 0
    assert "6 of 6 steps" in first.out
    assert "perplexity per reference token" in first.out
    assert "valid calls" in first.out
    assert "after - before on the same records" in first.out
    assert "mean log-probability per reference token, nats" in first.out
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = draftbench("tune", str(recipe), "--measure-only", "--adapter", str(folder))
    assert again.code == 0
    assert again.out.splitlines()[-14:] == first.out.splitlines()[-14:]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_may_be_given_away_names_no_place_and_no_text_of_the_data(draftbench: Any, recipe: Path, tmp_path: Path):
    report = draftbench("tune", str(recipe), "--out", str(tmp_path / "out"), "--json").json()
    assert report["command"][0] == "draftbench"
    rows = records(4, "heldout")
    written = (tmp_path / "out" / "tuning.json").read_text(encoding="utf-8")
    assert not [row["id"] for row in rows if row["messages"][0]["content"] in written]


def test_a_reference_with_an_id_beyond_the_target_s_embeddings_is_refused():
    prompt = Prompt("p", ({"role": "user", "content": "hi"},))
    with pytest.raises(DraftbenchError, match="prompt 'p' contains"):
        encode(byte_tokenizer(), [Example(prompt, "é")], DATA, None, rows=200)
    assert encode(byte_tokenizer(), [Example(prompt, "é")], DATA, None, rows=258)
