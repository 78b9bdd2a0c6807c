"""Training an adapter on a shared draft: its gradients, every loss, and a run that is broken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.capture.store import Capture
from engine.config.lora import DraftLoraSpec
from engine.config.schema import TrainSpec
from engine.distill.losses import LOSSES
from engine.distill.modes import batch_source
from engine.distill.modes.offline import OfflineBatches
from engine.distill.selection import SelectedBatches
from engine.distill.trainer import Trainer
from engine.models.draft import Draft, kept_state, load_draft, save_draft, trained_parameters, with_adapter
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.models.precision import copy_in
from engine.progress import Progress
from tests.tiny_pair import draft_of, into
from tests.unit.distill.modes import test_on_policy, test_online
from tests.unit.distill.test_losses import BETA, ETA, HARD, PLAIN
from tests.unit.distill.trainings import PowerCut, fingerprint, score, settings, step_gradients

pytestmark = pytest.mark.slow

SPEC = {"rank": 4, "alpha": 8.0}


def adapted(folder: Path, target: LoadedModel, *, filled: float = 0.0, base: Draft | None = None, **spec: Any) -> Draft:
    """A draft with an adapter; `filled`: the size of B, which begins as zero, as if it had been trained."""
    draft = base or draft_of(target)
    save_draft(folder / "draft" / "shared", draft)
    made = with_adapter(draft, DraftLoraSpec(**{**SPEC, **spec}), folder / "draft" / "shared", name="layers", seed=0)
    assert made.lora is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.lora.parameters.items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * filled)
    made.lora.merge()
    return made


def trainer_of(
    folder: Path, target: LoadedModel, capture: Capture, spec: TrainSpec | None = None, *, draft: Draft, **more: Any
) -> Trainer:
    spec = spec or settings()
    source = OfflineBatches(capture, spec, Head.of(target.model), target.device)
    return Trainer(draft, source, spec, folder, **{"evaluate": score, **more})


@pytest.mark.parametrize("name", [*(name for name in PLAIN if name != "tvd_pp"), "sft"])
def test_gradients_are_those_of_the_merged_model_in_float64(tmp_path, target, capture, name: str):
    """PEFT's layers, masters and pieces give what autograd gives through W + scale B A, answer by answer in float64."""
    own = {"jsd": {"beta": BETA}, "lk_hybrid": {"eta": ETA}, "argmax_ce": {"hard_weight": HARD}}.get(name, {})
    draft = adapted(tmp_path, target, filled=0.1)
    assert draft.lora is not None
    spec = settings(batch_size=6, loss={"name": name, **own}, micro_batch_tokens=40)
    weights = {n: p.detach().double().requires_grad_() for n, p in draft.lora.parameters.items()}  # before the step
    loss, gradients = step_gradients(trainer_of(tmp_path, target, capture, spec, draft=draft))

    shared = load_draft(tmp_path / "draft" / "shared", target).model
    plain = copy_in(shared, torch.float64)
    changed = {
        f"{place}.weight": plain.get_submodule(place).weight
        + 2.0 * weights[f"{place}.lora_B.weight"] @ weights[f"{place}.lora_A.weight"]
        for place in draft.lora.layers
    }
    losses = []
    for answer in capture.answers:
        ids, first = torch.tensor([[*answer.prompt_ids, *answer.token_ids]]), len(answer.prompt_ids) - 1
        draft_logits = torch.func.functional_call(plain, changed, kwargs={"input_ids": ids}).logits[0, first:-1]
        log_q = draft_logits.log_softmax(-1)
        signal = capture.format.decode(capture.raw_signal(answer), Head.of(target.model))
        log_p = signal.align(draft_logits.float(), 1.0)[0].double()
        losses.append(
            -log_q.gather(-1, torch.tensor(answer.token_ids)[:, None])[:, 0]
            if name == "sft"
            else PLAIN[name](log_p, log_q)
        )
    mean = torch.cat(losses).mean()
    assert loss == pytest.approx(float(mean.detach()), rel=1e-4)
    for mine, theirs in zip(gradients, torch.autograd.grad(mean, list(weights.values())), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_add_up_and_every_loss_learns(tmp_path, target, capture, name: str):
    results = []
    for most in (1, 10_000):
        spec = settings(batch_size=6, loss=name, micro_batch_tokens=most)
        made = trainer_of(tmp_path, target, capture, spec, draft=adapted(tmp_path, target, filled=0.1))
        results.append(step_gradients(made))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5, abs=1e-6)
    for mine, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
    assert any(bool(gradient.abs().sum() > 0) for gradient in results[0][1])


def test_only_the_adapter_has_optimiser_state_and_the_shared_draft_stays(tmp_path, target, capture):
    draft = adapted(tmp_path, target)
    before = (tmp_path / "draft" / "shared" / "draft.safetensors").read_bytes()
    made = trainer_of(tmp_path, target, capture, draft=draft)
    made.run()
    state = [t for values in made.optimiser.state.values() for t in values.values() if torch.as_tensor(t).numel() > 1]
    assert draft.lora is not None
    assert sum(t.numel() for t in state) == 2 * draft.lora.size == 2 * sum(p.numel() for p in made.trained)
    assert (tmp_path / "draft" / "shared" / "draft.safetensors").read_bytes() == before
    kept = load_file(tmp_path / "draft" / "last" / "draft.safetensors")
    assert sum(t.numel() for t in kept.values()) == draft.lora.size
    assert set(kept) == set(trained_parameters(draft)) == set(kept_state(draft))


def test_what_is_evaluated_and_loaded_is_the_merged_draft(tmp_path, target, capture):
    """The model that a mode decodes with and an evaluation measures has the adapter in it, after every step."""
    draft, seen = adapted(tmp_path, target), []
    ids = torch.arange(3, 12)[None]

    def evaluate(model: Any) -> dict[float, float]:
        seen.append(model(input_ids=ids).logits.detach().clone())
        return {0.0: len(seen) / 100}

    made = trainer_of(tmp_path, target, capture, draft=draft, evaluate=evaluate)
    made.run()
    assert not torch.equal(seen[0], seen[-1])
    loaded = load_draft(tmp_path / "draft" / "best", target)
    assert torch.equal(loaded.model(input_ids=ids).logits, seen[-1])
    torch.testing.assert_close(made.model(input_ids=ids).logits, seen[-1], rtol=1e-3, atol=1e-4)


def test_in_bfloat16_the_masters_are_float32_and_the_draft_learns(tmp_path, target, capture):
    events: list[dict[str, Any]] = []
    draft = adapted(tmp_path, target)
    spec = settings(precision="bfloat16", batch_size=6, max_steps=20, learning_rate=0.02)
    made = trainer_of(tmp_path, target, capture, spec, draft=draft, emit=into(events))
    made.run()
    assert {p.dtype for p in made.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in made.trained} == {torch.float32}
    losses = [event["loss"] for event in events if event["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]


# ---- broken off and resumed -----------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_run_broken_off_ends_with_the_same_adapter(tmp_path, target, capture, dropout: float):
    def run(name: str, cut: int | None) -> dict[str, Any]:
        folder = tmp_path / name

        def listen(told: dict[str, Any]) -> None:
            if told["done"] == cut:
                raise PowerCut

        if cut is not None:
            draft = adapted(folder, target, dropout=dropout)
            cut_off = trainer_of(folder, target, capture, draft=draft, progress=Progress(quiet=True, listen=listen))
            with pytest.raises(PowerCut):
                cut_off.run()
        torch.manual_seed(99 if cut else 1)  # what else is drawn in the process has no part in it
        draft = adapted(folder, target, dropout=dropout)
        return fingerprint(folder, trainer_of(folder, target, capture, draft=draft).run())

    unbroken = run("unbroken", None)
    assert run("early", 2) == unbroken
    assert run("late", 5) == unbroken


def test_dropout_is_drawn_for_the_step_and_only_in_training(tmp_path, target, capture):
    made = trainer_of(tmp_path, target, capture, draft=adapted(tmp_path, target, filled=0.1, dropout=0.5))
    batch = made.source.micro_batches(0)[0]
    first, again, other = made._hidden(batch, 0), made._hidden(batch, 0), made._hidden(batch, 1)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    plain = trainer_of(tmp_path, target, capture, draft=adapted(tmp_path, target, filled=0.1))
    assert not torch.allclose(first, plain._hidden(batch, 0), atol=1e-3)
    ids = torch.arange(9)[None]
    torch.testing.assert_close(made.model(input_ids=ids).logits, plain.model(input_ids=ids).logits)  # not in training


# ---- other modes ----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["decode", "replay"])
def test_a_stream_is_decoded_with_the_merged_draft(tmp_path, target, capture, stream: str):
    spec = test_online.settings(stream)
    draft = adapted(tmp_path, target, base=test_online.draft_of(target))
    material = test_online.material(tmp_path, target, capture, spec, draft)
    source = batch_source(material)
    made = Trainer(draft, source, spec, tmp_path, evaluate=score)
    made.run()
    assert made.outcome.positions_trained
    shared = load_draft(tmp_path / "draft" / "shared", target).model
    for place in draft.lora.layers:
        update = source.decoding.get_submodule(place).weight - shared.get_submodule(place).weight
        assert 0 < torch.linalg.matrix_rank(update, atol=1e-4, rtol=0) <= SPEC["rank"], place


def test_the_draft_that_writes_its_own_text_has_the_adapter(tmp_path, target, capture):
    spec = test_on_policy.settings(changes={"max_steps": 4})
    draft = adapted(tmp_path, target, base=test_on_policy.near_draft(target))
    made = test_on_policy.trainer_in(tmp_path, target, capture, spec, draft=draft)
    made.run()
    assert made.outcome.steps_done == 4
    assert made.source.draft_model is draft.model


def test_token_selection_looks_at_the_merged_draft(tmp_path, target, capture):
    draft = adapted(tmp_path, target)
    spec = settings(selection={"share": 0.5, "reference": "r"})
    source = OfflineBatches(capture, spec, Head.of(target.model), target.device)
    made = Trainer(draft, SelectedBatches(source, draft.model, draft_of(target, layers=3).model), spec, tmp_path)
    outcome = made.run()
    assert outcome.positions_trained < outcome.tokens_seen
