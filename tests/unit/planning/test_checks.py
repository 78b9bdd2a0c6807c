"""Checks and estimate before a run, on the tiny pair: nothing is loaded or raises, numbers agree with real runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config.reading import dump_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.fileio import read_json, write_json
from engine.models import load
from engine.models.fused_linears import packs
from engine.paths import PROJECT_ROOT, home
from engine.planning.checks import Check, checks
from engine.planning.checks import machine as machine_checks
from engine.planning.earlier_runs import best_pace, differences
from engine.planning.estimate import estimate
from engine.planning.outlines import target_outline
from engine.runs.folder import RunFolder
from engine.runs.inputs import check_inputs
from engine.runs.plan import split_prompts
from engine.runs.recipes import read_recipe
from tests.conftest import CHATML, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads weights in these tests fails them."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("engine.runs.session.load_model", refuse)  # first: it is imported here, with the real one
    monkeypatch.setattr(load, "load_model", refuse)


def made(path: Path, *settings: str) -> Recipe:
    return read_recipe(home(), str(path), settings, skip_bad=False)


def load_plain_target(recipe: Path) -> Any:
    """The target of a recipe, read with Transformers alone: our own loading is forbidden here."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(made(recipe).target.model)


def named(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_prompts_with_marks_of_the_template_are_reported(recipe: Path, tmp_path: Path):
    file = tmp_path / "rendered.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n} <|im_end|>"}) + "\n" for n in range(3)))
    said = named(checks(home(), made(recipe, f"prompts.heldout={file}")))["prompts in the template"]
    assert said.state == "warning"
    assert "'<|im_end|>' in 3 of " in said.message


def test_settings_without_effect_are_reported(recipe: Path):
    quiet, said = (
        named(checks(home(), made(recipe, *given)))["settings"] for given in ([], ["train.online.order=shuffled"])
    )
    assert quiet.state == "ok", quiet.message
    assert said.state == "warning"
    assert "train.online.order=shuffled" in said.message


def test_held_out_prompts_that_repeat_are_left_out_and_counted(recipe: Path, tmp_path: Path):
    file = tmp_path / "again.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"question {i % 30}"}) + "\n" for i in range(40)))
    wanted = made(recipe, f"prompts.heldout={file}", "train.eval_prompts=4", "measure.heldout_prompts=null")
    said = named(checks(home(), wanted))["held-out prompts"]
    assert said.state == "warning"
    assert said.message.startswith("40 prompts; 10 repeat another one and are left out")
    assert said.message.endswith(": 4 to choose the draft by, 26 to measure on")
    target = target_outline(wanted.target)
    assert target is not None
    counts = split_prompts(wanted, target).counts
    assert (counts["watched"], counts["measured"], counts["heldout_repeated"]) == (4, 26, 10)
    assert "beyond_heldout_prompts" not in counts
    fewer = made(recipe, f"prompts.heldout={file}", "train.eval_prompts=4", "measure.heldout_prompts=20")
    counts = split_prompts(fewer, target).counts
    assert (counts["watched"], counts["measured"], counts["beyond_heldout_prompts"]) == (4, 20, 6)
    alone = made(recipe, "task=measure", "prompts.train=[]", f"prompts.heldout={file}", "measure.heldout_prompts=25")
    counts = split_prompts(alone, target).counts
    assert (counts["measured"], counts["beyond_heldout_prompts"], counts["heldout_repeated"]) == (25, 5, 10)


def test_what_the_template_leaves_out_of_the_prompts_is_reported(recipe: Path, tmp_path: Path):
    quiet = named(checks(home(), made(recipe)))["prompts in the template"]
    assert (quiet.ok, quiet.state) == (True, "ok")
    messages = [{"role": "user", "content": f"q{n}", "name": "Ada"} for n in range(3)]
    file = tmp_path / "named.jsonl"
    file.write_text("".join(json.dumps({"messages": [message]}) + "\n" for message in messages))
    said = named(checks(home(), made(recipe, f"prompts.heldout={file}")))["prompts in the template"]
    assert said.state == "warning"
    assert "does not write 'name' of user messages, in 3 of" in said.message


def test_a_good_recipe_passes_every_check_with_the_vocabulary_first(recipe: Path):
    found = checks(home(), made(recipe))
    assert found[0].name == "vocabulary"
    assert all(check.ok for check in found), [check for check in found if not check.ok]
    by_name = named(found)
    assert by_name["training prompts"].message == "8 prompts"
    assert "1 to choose the draft by, 5 to measure on" in by_name["held-out prompts"].message
    assert "2 of the target's 4 layers: 0, 3" in by_name["draft"].message


def test_a_draft_with_another_vocabulary_fails_first_and_is_not_loaded(recipe: Path, tmp_path: Path):
    folder = tmp_path / "other"
    tiny_llama(layers=1).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    first = checks(home(), made(recipe, "draft.init=checkpoint", f"draft.checkpoint={folder}"))[0]
    assert (first.name, first.ok) == ("vocabulary", False)
    assert "do not share a vocabulary" in first.message
    assert "draft.init: layers" in first.fix


def test_a_draft_with_the_same_vocabulary_passes(recipe: Path, tmp_path: Path):
    folder = tmp_path / "same"
    tiny_llama(layers=1).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    first = checks(home(), made(recipe, "draft.init=checkpoint", f"draft.checkpoint={folder}"))[0]
    assert first.ok
    assert "258 ids" in first.message


def test_a_draft_of_an_earlier_run_is_known_by_its_target(finished_home: Path, recipe: Path, tmp_path: Path):
    settings = ("draft.init=checkpoint", "draft.checkpoint=latest")
    first = checks(home(), made(recipe, *settings))[0]
    assert first.ok
    assert "this very target" in first.message
    other = tmp_path / "other-target"
    tiny_llama(seed=5).save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    first = checks(home(), made(recipe, *settings, f"target.model={other}"))[0]
    assert not first.ok
    assert "another target" in first.message


def test_a_draft_fits_a_tuned_target_that_kept_its_embeddings(finished_home: Path, recipe: Path, tmp_path: Path):
    tuned, base = tiny_llama(seed=5), load_plain_target(recipe)
    with torch.no_grad():
        tuned.get_input_embeddings().weight.copy_(base.get_input_embeddings().weight)
    tuned.save_pretrained(tmp_path / "tuned")
    byte_tokenizer().save_pretrained(tmp_path / "tuned")
    settings = ("draft.init=checkpoint", "draft.checkpoint=latest", f"target.model={tmp_path / 'tuned'}")
    first = checks(home(), made(recipe, *settings))[0]
    assert first.ok
    assert "same embeddings" in first.message


def test_a_target_without_chat_template_fails_in_words(recipe: Path, tmp_path: Path):
    folder = tmp_path / "base"
    tiny_llama().save_pretrained(folder)
    byte_tokenizer(template=None).save_pretrained(folder)
    check = named(checks(home(), made(recipe, f"target.model={folder}")))["chat template"]
    assert not check.ok
    assert "no chat template" in check.message


def test_a_template_without_the_header_of_an_answer_is_a_warning(recipe: Path, tmp_path: Path):
    tiny_llama().save_pretrained(tmp_path / "plain")
    byte_tokenizer(CHATML.partition("{% if")[0]).save_pretrained(tmp_path / "plain")
    check = named(checks(home(), made(recipe, f"target.model={tmp_path / 'plain'}")))["chat template"]
    assert check.state == "warning"
    assert "end without '<|im_start|>assistant\\n'" in check.message
    assert "add_generation_prompt" in check.fix


def write(path: Path, *texts: str) -> Path:
    path.write_text("\n".join(json.dumps({"prompt": text}) for text in texts), encoding="utf-8")
    return path


def test_bad_rows_overlap_and_long_prompts_are_counted(recipe: Path, tmp_path: Path):
    train = write(tmp_path / "train.jsonl", "Why is the sky blue?", "What is a cell?", "x " * 400)
    train.write_text(train.read_text() + "\nnot json", encoding="utf-8")
    heldout = write(tmp_path / "heldout.jsonl", "why is the SKY blue", "How do birds sing?")
    found = named(checks(home(), made(recipe, f"prompts.train={train}", f"prompts.heldout={heldout}")))
    assert found["training prompts"].state == "failed"
    assert "1 bad rows" in found["training prompts"].message
    assert "1 training prompts repeat" in found["overlap"].message
    assert found["prompt length"].state == "failed"
    assert "1 training and 0 held-out" in found["prompt length"].message
    assert found["held-out prompts"].state == "warning"
    mended = named(
        checks(
            home(),
            made(
                recipe,
                f"prompts.train={train}",
                f"prompts.heldout={heldout}",
                "prompts.skip_bad=true",
                "prompts.max_prompt_tokens=100",
            ),
        )
    )
    assert mended["training prompts"].state == "warning"
    assert mended["prompt length"].ok
    assert "1 longer than prompts.max_prompt_tokens" in mended["prompt length"].message


def test_lengths_that_leave_nothing_out_of_too_much_are_said_before_the_start(recipe: Path, tmp_path: Path):
    train, heldout = write(tmp_path / "t.jsonl", "a?", "b?"), write(tmp_path / "h.jsonl", "c?", "d?")
    asked = [f"prompts.train={train}", f"prompts.heldout={heldout}"]
    nothing = named(checks(home(), made(recipe, *asked, "prompts.max_prompt_tokens=2")))["prompt length"]
    assert (nothing.state, "no training prompt is left" in nothing.message) == ("failed", True)
    long = ["prompts.max_prompt_tokens=40", "capture.max_new_tokens=8", "measure.max_new_tokens=500"]
    write(tmp_path / "h.jsonl", "c" * 60, "d" * 60)
    few = named(checks(home(), made(recipe, *asked, *long)))["prompt length"]
    assert (few.state, "too few held-out prompts are left" in few.message) == ("failed", True)


ALONE = ("task=measure", "prompts.train=[]", "draft={init: none}", "measure.speed_prompts=2")


@pytest.mark.parametrize(("answer", "state"), [(500, "failed"), (8, "ok")])
def test_of_a_target_alone_the_timed_answers_must_fit_and_no_others(recipe: Path, answer: int, state: str):
    asked = (f"measure.speed_tokens={answer}", f"measure.max_new_tokens={508 - answer}")
    found = named(checks(home(), made(recipe, *ALONE, *asked)))["prompt length"]
    assert found.state == state, found.message


def test_a_held_out_prompt_that_is_not_measured_on_may_be_long(recipe: Path, tmp_path: Path):
    heldout = write(tmp_path / "h.jsonl", "a?", "b?", "c?", "d" * 600)
    asked = (f"prompts.heldout={heldout}", "measure.heldout_prompts=2")
    assert named(checks(home(), made(recipe, *asked)))["prompt length"].ok
    assert not named(checks(home(), made(recipe, *asked[:1])))["prompt length"].ok


def test_too_few_training_prompts_are_short_enough(recipe: Path, tmp_path: Path):
    train = write(tmp_path / "t.jsonl", "a?", "b?", "c" * 60, "d" * 70)
    asked = (f"prompts.train={train}", "prompts.max_prompt_tokens=60")
    few = named(checks(home(), made(recipe, *asked, "prompts.train_prompts=3")))["prompt length"]
    assert (few.state, "is 3, but 2 training prompts are left" in few.message) == ("failed", True)
    assert named(checks(home(), made(recipe, *asked, "prompts.train_prompts=2")))["prompt length"].ok


def test_the_reference_of_token_selection_is_looked_at_before_the_start(recipe: Path, finished_home: Path):
    run, target = RunFolder.open(home(), "latest"), made(recipe).target.model
    found = named(checks(home(), made(recipe, f"train.selection={{share: 0.5, reference: {run.id}}}")))
    assert found["reference"].ok, found["reference"].message
    other = f"train.selection={{share: 0.5, reference: {target}}}"
    model = named(checks(home(), made(recipe, other)))["reference"]
    assert (model.state, "is not a draft of Draftbench" in model.message) == ("failed", True)
    with pytest.raises(DraftbenchError, match="is not a draft of Draftbench"):
        check_inputs(home(), [made(recipe, other)])
    trimmed = made(recipe, f"train.selection={{share: 0.5, reference: {run.id}}}", "draft.vocabulary=9")
    ids = named(checks(home(), trimmed))["reference"]
    assert (ids.state, "the draft proposes 9 ids" in ids.message) == ("failed", True)
    assert "reference" not in named(checks(home(), made(recipe)))


def test_prompts_that_vanished_spoil_only_what_needs_them(recipe: Path, tmp_path: Path):
    train = write(tmp_path / "train.jsonl", "a?", "b?")
    wanted = made(recipe, f"prompts.train={train}")
    train.unlink()
    found = named(checks(home(), wanted))
    assert [name for name, check in found.items() if not check.ok] == ["training prompts"]
    assert "not looked at" in found["overlap"].message


def test_everything_training_repeats_means_nothing_to_train_on(recipe: Path, tmp_path: Path):
    same = write(tmp_path / "same.jsonl", "What is a cell?", "How do birds sing?")
    found = named(checks(home(), made(recipe, f"prompts.train={same}", f"prompts.heldout={same}")))
    assert not found["overlap"].ok


def test_remote_code_is_warned_of_and_never_run_by_the_checks(recipe: Path, tmp_path: Path, tiny_target_folder: Path):
    folder = tmp_path / "with-code"
    shutil.copytree(tiny_target_folder, folder)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "auto_map": {"AutoConfig": "evil.Evil"}})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    wanted = made(recipe, f"target.model={folder}", "target.trust_remote_code=true")
    found = named(checks(home(), wanted))
    estimate(home(), wanted)
    assert found["remote code"].state == "warning"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("setting", "check"),
    [
        ("draft.layers=9", "draft"),
        ("target.device=abacus", "device"),
        ("prompts.heldout={path: B, limit: 1}", "held-out prompts"),
    ],
)
def test_what_does_not_fit_fails_its_own_check(recipe: Path, setting: str, check: str):
    setting = setting.replace("B", str(recipe.with_name("heldout.jsonl")))
    found = named(checks(home(), made(recipe, setting)))
    assert not found[check].ok
    assert found[check].fix


def test_a_full_disk_fails(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    usage = type(shutil.disk_usage("/"))(10**9, 10**9 - 5000, 5000)
    monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda _: usage)
    assert not named(checks(home(), made(recipe)))["disk"].ok


def test_a_model_that_is_not_here_yet_is_not_fetched(recipe: Path):
    wanted = made(recipe, "target.model=asset:smollm2-135m-instruct")
    found = named(checks(home(), wanted))
    assert found["chat template"].state == "warning"
    assert "not on this machine yet" in found["chat template"].message
    assert "fetched when the run begins" in estimate(home(), wanted).memory_unknown


def test_a_broken_model_folder_is_a_failed_check(recipe: Path, tmp_path: Path):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "no_such_model"}')
    found = checks(home(), made(recipe, f"target.model={folder}"))
    assert any(not check.ok for check in found)
    assert estimate(home(), made(recipe, f"target.model={folder}")).memory_unknown


def test_memory_is_counted_from_the_shapes(recipe: Path):
    found = estimate(home(), made(recipe))
    target = tiny_llama()
    assert found.memory["target"] == sum(p.numel() for p in target.parameters()) * 4
    halved = estimate(home(), made(recipe, "target.dtype=bfloat16"))
    copies = 2 if packs(torch.device("cpu"), torch.bfloat16) else 1
    assert halved.memory["target"] * 2 == found.memory["target"] * copies
    assert halved.memory["measurement"] > found.memory["measurement"], "the certificate needs a float32 copy"
    assert found.memory_bytes == found.memory["target"] + max(
        found.memory[part] for part in ("capture", "training", "measurement")
    )


def test_disk_is_counted_from_the_plans_and_what_exists_costs_nothing(finished_home: Path, recipe: Path):
    again = estimate(home(), made(recipe))
    assert again.disk["captures"] == 0
    other = estimate(home(), made(recipe, "capture.seed=7"))
    assert other.disk["captures"] == 8 * 12 * (32 * 2 + 12), "8 prompts, 12 tokens, 32 bfloat16 values and the text"
    run = RunFolder.open(home(), "latest")
    own = (run.path / "draft" / "best" / "draft.safetensors").stat().st_size
    assert other.disk["drafts"] == pytest.approx(2 * own, rel=0.2)
    assert other.passing_bytes == 3 * other.disk["drafts"], "weights and two moments, twice"
    assert sum(other.lasting.values()) + other.passing_bytes == other.disk_bytes


def test_time_is_scaled_from_an_earlier_run_and_names_it(finished_home: Path, recipe: Path):
    run = RunFolder.open(home(), "latest")
    training = read_json(run.path / "training.json")
    write_json(run.path / "training.json", {**training, "tokens_seen": 160, "seconds": 16.0})
    again = estimate(home(), made(recipe))
    assert again.based_on == run.id
    assert again.differs == ()
    assert again.seconds["capture"] == 0
    tokens = read_json(run.path / "provenance.json")["captures"]["training"]["tokens"]
    assert again.seconds["training"] == pytest.approx(2 * tokens / 10)
    twice = estimate(home(), made(recipe, "train.epochs=4", "train.loss=tvd"))
    assert twice.seconds["training"] == pytest.approx(2 * again.seconds["training"])
    assert twice.differs == ("its loss is forward_kl",)
    assert estimate(home(), made(recipe, "capture.seed=7")).seconds["capture"] > 0


def test_a_target_is_known_by_its_weights_wherever_they_lie(finished_home: Path, recipe: Path, tmp_path: Path):
    elsewhere = shutil.copytree(made(recipe).target.model, tmp_path / "elsewhere")
    moved = f"target.model={elsewhere}"
    assert estimate(home(), made(recipe, moved)).based_on == RunFolder.open(home(), "latest").id
    assert estimate(home(), made(recipe, moved, "target.dtype=bfloat16")).based_on == ""
    weights = next(elsewhere.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert estimate(home(), made(recipe, moved)).based_on == ""


def test_a_decoded_stream_writes_its_own_text_and_makes_no_training_capture(finished_home: Path, recipe: Path):
    settings = ("capture.seed=7", "train.mode=online")
    replayed = estimate(home(), made(recipe, *settings, "train.online.stream=replay"))
    decoded = estimate(home(), made(recipe, *settings, "train.online.stream=decode"))
    assert (decoded.disk["captures"], decoded.disk["stream"]) == (0, replayed.disk["captures"])
    assert "stream" not in replayed.disk
    assert decoded.seconds["capture"] == 0 < replayed.seconds["capture"]
    assert decoded.seconds["training"] == pytest.approx(replayed.seconds["training"])


def test_a_pace_is_taken_from_a_run_that_works_alike_or_says_what_is_unlike(recipe: Path):
    def unlike(ours: list[str], theirs: list[str]) -> list[str]:
        return list(differences(made(recipe, *ours), made(recipe, *theirs)))

    online, on_policy = "train.mode=online", "train.mode=on_policy"
    assert unlike([], []) == []
    assert unlike([], [online]) == ["its train.mode is online"]
    assert unlike([online], [online, "train.online.stream=replay"]) == ["its train.online.stream is replay"]
    assert unlike([], ["train.online.stream=replay"]) == []
    assert unlike([on_policy], [on_policy, "train.on_policy.form=assisted"]) == ["its train.on_policy.form is assisted"]
    chosen = ["train.selection={share: 0.5, reference: " + str(recipe.parent) + "}"]
    assert unlike([], chosen) == ["its train.selection.share is 0.5"]


def test_the_speed_of_a_server_is_not_that_of_the_target(finished_home: Path, recipe: Path):
    run = RunFolder.open(home(), "latest")
    server = ["capture.signal=none", "train.loss=sft", "capture.server={base_url: 'http://127.0.0.1:9', model: m}"]
    served = made(recipe, *server)
    (run.path / "config.yaml").write_text(dump_recipe(served), encoding="utf-8")
    found = best_pace(home(), made(recipe))
    assert found is not None
    assert found.capture_tokens_s is None
    assert "its answers came from a server" in differences(made(recipe), found.recipe)


def test_time_is_not_invented(recipe: Path):
    found = estimate(home(), made(recipe))
    assert found.seconds == {}
    assert found.seconds_unknown == "not known yet: no earlier run has trained a draft for this target here"


def test_a_run_of_another_machine_or_a_damaged_one_tells_no_time(finished_home: Path, recipe: Path):
    run = RunFolder.open(home(), "latest")
    provenance = read_json(run.path / "provenance.json")
    changed: dict[str, Any] = {**provenance, "machine": {**provenance["machine"], "cores": 999}}
    write_json(run.path / "provenance.json", changed)
    shutil.rmtree(home().root / "probes", ignore_errors=True)  # the first run's trial tells one
    assert estimate(home(), made(recipe)).seconds == {}
    (run.path / "provenance.json").write_text("{")
    assert estimate(home(), made(recipe)).seconds == {}


def test_a_part_whose_time_is_not_known_is_named(finished_home: Path, recipe: Path):
    assert estimate(home(), made(recipe)).seconds_missing == ()
    run = RunFolder.open(home(), "latest")
    run.set_status(state="cancelled")  # trained, not measured
    found = estimate(home(), made(recipe))
    assert found.seconds_missing == ("measurement",)
    assert set(found.seconds) == {"capture", "training"}


def test_the_speed_of_a_run_is_read_once_until_it_changes(
    finished_home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
):
    first = best_pace(home(), made(recipe))
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "recipe", lambda run: pytest.fail("read again"))
        assert best_pace(home(), made(recipe)) == first
    run = RunFolder.open(home(), "latest")
    write_json(run.path / "training.json", {**read_json(run.path / "training.json"), "tokens_seen": 160, "seconds": 1})
    changed = best_pace(home(), made(recipe))
    assert changed is not None
    assert changed.train_tokens_s == 160


def test_looking_at_a_model_never_asks_to_run_its_code(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    from transformers import AutoConfig

    asked: list[object] = []
    read = AutoConfig.from_pretrained
    monkeypatch.setattr(
        AutoConfig,
        "from_pretrained",
        lambda *args, **given: asked.append(given.get("trust_remote_code")) or read(*args, **given),
    )
    checks(home(), made(recipe))
    assert asked
    assert set(asked) == {False}


def test_more_training_prompts_than_there_are_fail_one_check_that_says_how_many(recipe: Path):
    found = checks(home(), made(recipe, "prompts.train_prompts=9"))
    assert [check.name for check in found if not check.ok] == ["overlap"]
    assert "there are 8 training prompts" in named(found)["overlap"].message
    assert all(check.ok for check in checks(home(), made(recipe, "prompts.train_prompts=8")))


def test_only_the_prompts_that_are_trained_on_must_fit_the_context(recipe: Path, tmp_path: Path):
    train = tmp_path / "train.jsonl"
    rows = [{"id": f"p{i}", "prompt": f"{i} question " * (600 if i == LAST_BY_HASH else 1)} for i in range(8)]
    train.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    whole = named(checks(home(), made(recipe, f"prompts.train={train}")))
    part = named(checks(home(), made(recipe, f"prompts.train={train}", "prompts.train_prompts=7")))
    assert (whole["prompt length"].ok, part["prompt length"].ok) == (False, True)


def test_a_checkpoint_whose_embeddings_would_be_replaced_fails_before_the_start(recipe: Path, tmp_path: Path):
    folder = tmp_path / "other"
    tiny_llama(layers=1, seed=8).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    asked = ("draft.init=checkpoint", f"draft.checkpoint={folder}")
    found = named(checks(home(), made(recipe, *asked)))["draft"]
    assert not found.ok
    assert "draft.share_embeddings: false" in found.fix
    assert named(checks(home(), made(recipe, *asked, "draft.share_embeddings=false")))["draft"].ok


def test_prompts_and_answers_beyond_the_drafts_context_fail_before_the_start(recipe: Path, tmp_path: Path):
    folder = tmp_path / "short"
    tiny_llama(layers=1, max_position_embeddings=32).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    short = made(recipe, "draft.init=checkpoint", f"draft.checkpoint={folder}")
    found = named(checks(home(), short))["prompt length"]
    assert not found.ok
    assert "14 prompts with their answers are longer than the draft's 32 tokens" in found.message
    assert named(checks(home(), made(recipe)))["prompt length"].ok


@pytest.mark.parametrize("longer", ["measure.speed_tokens=2000", "measure.certificate_tokens=2000"])
def test_answers_that_are_timed_or_certified_beyond_the_context_fail_before_the_start(recipe: Path, longer: str):
    found = named(checks(home(), made(recipe, longer)))["prompt length"]
    assert not found.ok
    assert "answers would be timed or certified beyond the context of" in found.message
    assert "measure.speed_tokens" in found.fix
    assert named(checks(home(), made(recipe, "measure.speed_tokens=2000", "measure.speed_prompts=0")))[
        "prompt length"
    ].ok, "nothing is timed"


LAST_BY_HASH = max(range(8), key=lambda i: hashlib.sha256(f"p{i}".encode()).digest())


def test_an_adapter_is_counted_apart_from_the_draft_that_it_is_on(finished_home: Path, recipe: Path):
    adapter = ("draft={init: checkpoint, checkpoint: tiny, lora: {rank: 2}}", "name=adapted")
    full, small = (
        estimate(home(), made(recipe, "draft={init: checkpoint, checkpoint: tiny}")),
        estimate(home(), made(recipe, *adapter)),
    )
    size = (
        2 * 2 * (4 * 32 + 2 * (32 + 16) + 3 * (32 + 64)) * 4
    )  # bytes: layers x rank x (in + out) of all linear layers
    assert small.disk["drafts"] == 2 * size, "the shared draft is a link"
    assert small.passing_bytes == 6 * size
    adapted = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) * 4  # of the weights that the adapter changes, once more
    own = full.disk["drafts"] // 2
    places = 14 * 2 * 4  # what the down projections of a position give, bytes
    from engine.distill.schedule import forward_tokens

    positions = forward_tokens(made(recipe, *adapter).train, torch.device("cpu"))
    assert full.memory["training"] - small.memory["training"] == 3 * own - 5 * size - adapted - positions * places
    assert estimate(home(), made(recipe, "draft.lora.rank=2")).disk["drafts"] > small.disk["drafts"], "kept in the run"
    assert "it trained all weights of its draft" in small.differs
    said = named(checks(home(), made(recipe, *adapter)))["draft"]
    assert said.ok
    assert f"a LoRA adapter of rank 2 is trained, {size // 4:,} parameters" in said.message


def test_an_adapter_of_layers_that_the_draft_has_not_fails_its_check(recipe: Path):
    found = named(checks(home(), made(recipe, "draft.lora={modules: [q_projj]}")))["draft"]
    assert not found.ok
    assert "did you mean 'q_proj'" in found.fix


def test_to_load_the_checks_loads_no_compiler():
    """Every page waits for it once, and every check in a process of its own."""
    code = "import sys, engine.planning.checks; print([name for name in sys.modules if name == 'torch._dynamo'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_time_of_a_target_alone_is_that_of_its_timing(recipe: Path, finished_home: Path):
    asked = (*ALONE, "measure.speed_tokens=4")
    short, long = (estimate(home(), made(recipe, *asked, f"measure.trace_prompts={n}")) for n in (1, 500))
    assert short.based_on
    assert short.seconds["measurement"] == long.seconds["measurement"]
    more = estimate(home(), made(recipe, *ALONE, "measure.speed_tokens=8"))
    assert more.seconds["measurement"] == pytest.approx(2 * short.seconds["measurement"])
