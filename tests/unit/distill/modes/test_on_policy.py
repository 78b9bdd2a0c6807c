"""On-policy batches: what the draft writes, what the target says of it, and which loss each position gets."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.capture.batches import Batch
from engine.capture.store import Capture
from engine.chat.turns import until_stop
from engine.config.schema import CaptureSpec, LossTerm, OnPolicySpec, TrainSpec
from engine.decode.sampling import Sampling, Uniforms
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from engine.distill.losses import LOSSES
from engine.distill.modes import Material, batch_source
from engine.distill.modes.offline import OfflineBatches
from engine.distill.modes.on_policy import OnPolicyBatches, anchors, block_weights, drafts_turn
from engine.distill.schedule import step_answers
from engine.distill.trainer import Outcome, Trainer
from engine.errors import DraftbenchError
from engine.fileio import sha256_file
from engine.models.draft import Draft, trim
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.progress import Progress
from tests.conftest import tiny_llama
from tests.kill import kill_myself, run_until_killed
from tests.tiny_pair import blend, captured, draft_of, into, loaded, questions, stopping_target
from tests.unit.distill.trainings import PowerCut

pytestmark = pytest.mark.slow

STEPS, LIMITS = 7, CaptureSpec(max_new_tokens=12, batch_size=4)
TRIMMED = torch.arange(2, 222, 2)


def settings(loss: Any = "forward_kl", changes: dict[str, Any] | None = None, **on_policy: Any) -> TrainSpec:
    return TrainSpec(
        **{
            "mode": "on_policy",
            "on_policy": OnPolicySpec(**{"share": 1.0, "block_tokens": 4, **on_policy}),
            "loss": loss,
            "batch_size": 3,
            "epochs": 99,
            "max_steps": STEPS,
            "learning_rate": 0.01,
            "precision": "float32",
            "eval_every": 2,
            "checkpoint_every": 3,
            **(changes or {}),
        }
    )


def near_draft(target: LoadedModel) -> Draft:
    """A draft whose proposals are sometimes accepted, sometimes not."""
    draft = draft_of(target, layers=4)
    blend(draft.model, tiny_llama(seed=9), 0.1)
    return draft


def source_of(
    target: LoadedModel, capture: Capture, spec: TrainSpec | None = None, draft: Draft | None = None
) -> OnPolicyBatches:
    return OnPolicyBatches((draft or draft_of(target)).model, target, capture, spec or settings(), LIMITS)


def trainer_in(folder: Path, target: LoadedModel, capture: Capture, spec: TrainSpec, **more: Any) -> Trainer:
    draft = more.pop("draft", None) or draft_of(target)
    return Trainer(draft, source_of(target, capture, spec, draft), spec, folder, **{"evaluate": score, **more})


def score(model: Any) -> dict[float, float]:
    """Stands in for the measured acceptance: some number between 0 and 1 that follows the weights."""
    total = sum(float(p.detach().double().abs().sum()) for p in model.parameters() if p.requires_grad)
    return {0.0: math.sin(total) ** 2}


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches are equal in every bit."""
    for mine, theirs in zip(vars(one).values(), vars(other).values(), strict=True):
        if not (torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs):
            return False
    return True


def rows(batch: Batch) -> list[tuple[str, list[int], list[int], torch.Tensor]]:
    """Name, all ids, learnt tokens and raw signal of each row; the last token is in no input."""
    found, start = [], 0
    for row, (name, length) in enumerate(zip(batch.names, batch.lengths, strict=True)):
        part = slice(start, start + length)
        ids = batch.ids[row][batch.mask[row].bool()].tolist()
        found.append((name, [*ids, int(batch.token_ids[part][-1])], batch.token_ids[part].tolist(), part))
        start += length
    return found


def logits_of(model: Any, ids: list[int], count: int) -> torch.Tensor:
    """[count, vocab]: what predicts the last `count` of the ids, in a plain forward of one row."""
    return model(input_ids=torch.tensor([ids])).logits[0, -count - 1 : -1]


def gradients(trainer: Trainer, step: int = 0) -> tuple[float, list[torch.Tensor]]:
    """Loss a position and gradients of one step, before clipping."""
    batches = trainer.source.micro_batches(step)
    tokens = sum(batch.tokens for batch in batches)
    trainer.optimiser.zero_grad(set_to_none=True)
    loss = sum(float(trainer.backward(batch, step, tokens)) for batch in batches) / tokens
    return loss, [p.grad.clone() for p in trainer.trained if p.grad is not None]


def by_hand(model: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    learning = [p for p in model.parameters() if p.requires_grad]
    return [g for g in torch.autograd.grad(loss, learning, allow_unused=True) if g is not None]


def assert_same_step(made: tuple[float, list[torch.Tensor]], model: Any, expected: torch.Tensor) -> None:
    loss, found = made
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    for mine, theirs in zip(found, by_hand(model, expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-6)


# ---- whose turn it is -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exact", "compact"])
def test_share_0_gives_the_very_batches_of_an_offline_run(target, capture, compact_capture, kind: str):
    chosen = {"exact": capture, "compact": compact_capture}[kind]
    spec = settings(share=0.0)
    source = source_of(target, chosen, spec)
    offline = OfflineBatches(chosen, spec, Head.of(target.model), target.device)
    assert source.steps == offline.steps == STEPS
    assert list(source.terms) == list(spec.loss)
    for step in range(STEPS):
        for mine, theirs in zip(source.micro_batches(step), offline.micro_batches(step), strict=True):
            assert same(mine, theirs)


def test_share_0_trains_to_the_weights_of_an_offline_run(tmp_path, target, capture):
    spec = settings(share=0.0)
    draft = draft_of(target)
    offline = OfflineBatches(capture, spec, Head.of(target.model), target.device)
    Trainer(draft, offline, spec, tmp_path / "offline", evaluate=score).run()
    trainer_in(tmp_path / "on_policy", target, capture, spec).run()
    assert (
        len({sha256_file(tmp_path / name / "draft/last/draft.safetensors") for name in ("offline", "on_policy")}) == 1
    )


def test_share_is_a_steps_chance_and_drawn_anew_by_seed_and_step():
    turns = [drafts_turn(0, step, 0.3) for step in range(4000)]
    assert sum(turns) / 4000 == pytest.approx(0.3, abs=0.03)  # four standard deviations
    assert turns == [drafts_turn(0, step, 0.3) for step in range(4000)]
    assert turns != [drafts_turn(1, step, 0.3) for step in range(4000)]
    assert all(drafts_turn(0, step, 1.0) and not drafts_turn(0, step, 0.0) for step in range(100))


def test_a_mixed_run_takes_each_step_from_whose_turn_it_is(target, capture):
    spec = settings(share=0.5)
    source, offline = source_of(target, capture, spec), OfflineBatches(capture, spec, None, target.device)
    turns = [drafts_turn(spec.seed, step, 0.5) for step in range(20)]
    assert 0 < sum(turns) < 20
    for step, turn in enumerate(turns):
        mine, theirs = source.micro_batches(step), offline.micro_batches(step)
        assert {name for b in mine for name in b.names} == {name for b in theirs for name in b.names}
        assert turn == (not all(same(a, b) for a, b in zip(mine, theirs, strict=False)))
        assert all(bool((b.places < 0).all()) == turn for b in mine)


# ---- sampled --------------------------------------------------------------------------------


def test_the_text_is_the_drafts_own_at_its_weights_and_ends_as_answers_do(target, capture):
    draft = draft_of(target)
    source = source_of(target, capture, draft=draft)
    answers = {a.prompt_id: a for a in capture.answers}
    wanted = [capture.answers[i].prompt_id for i in step_answers(len(capture.answers), source.settings, 0)]
    found = [row for batch in source.micro_batches(0) for row in rows(batch)]
    assert sorted(name for name, *_ in found) == sorted(wanted)
    for name, ids, tokens, _ in found:
        prompt = answers[name].prompt_ids
        assert ids == [*prompt, *tokens]
        assert len(tokens) <= LIMITS.max_new_tokens
        assert not set(tokens[:-1]) & target.stop_ids
        assert len(tokens) == LIMITS.max_new_tokens or tokens[-1] in target.stop_ids
        written = list(prompt)  # drawn by hand from plain forwards, with the same uniforms
        draws = Uniforms(0, [f"write:0:{name}"]).take([0], len(tokens))[0]
        for draw in draws:
            probs = torch.softmax(draft.model(input_ids=torch.tensor([written])).logits[0, -1].double(), -1)
            written.append(int((probs.cumsum(-1) <= draw).sum()))
        assert written == ids


def test_the_draft_writes_anew_each_step_and_by_the_weights_of_that_moment(target, capture):
    draft = draft_of(target)
    spec = settings(changes={"batch_size": 6})
    source = source_of(target, capture, spec, draft)

    def texts(step: int) -> dict[str, list[int]]:
        return {name: tokens for b in source.micro_batches(step) for name, _, tokens, _ in rows(b)}

    before = texts(0)
    assert texts(0) == before
    assert texts(1) != before
    with torch.no_grad():
        for p in draft.model.parameters():
            p.mul_(1.3)
    assert texts(0) != before


def test_a_low_temperature_writes_what_the_draft_thinks_likeliest(target, capture):
    draft = draft_of(target)
    source = source_of(target, capture, settings(temperature=0.001), draft)
    for batch in source.micro_batches(0):
        for _, ids, tokens, _ in rows(batch):
            assert logits_of(draft.model, ids, len(tokens)).argmax(-1).tolist() == tokens


@pytest.mark.parametrize("most", [1, 4096])
def test_the_score_is_a_plain_forward_of_the_target_on_the_drafts_text(target, capture, most: int):
    source = source_of(target, capture, settings(changes={"micro_batch_tokens": most}))
    for batch in source.micro_batches(0):
        for _, ids, tokens, part in rows(batch):
            signal = source.read_signal(batch, part)
            assert signal is not None
            log_p, _ = signal.align(torch.zeros(len(tokens), 258), 1.0)
            expected = torch.log_softmax(logits_of(target.model, ids, len(tokens)), -1)
            torch.testing.assert_close(log_p, expected, rtol=0, atol=0.06)  # the state is kept in bfloat16
            assert (log_p.argmax(-1) == expected.argmax(-1)).float().mean() > 0.8


def test_with_a_compact_capture_it_scores_compactly(target, compact_capture):
    source = source_of(target, compact_capture)
    (batch, *_) = source.micro_batches(0)
    assert batch.raw_signal.shape[1] == compact_capture.format.bytes_per_token
    for _, ids, tokens, part in rows(batch):
        log_p, _ = source.read_signal(batch, part).align(torch.zeros(len(tokens), 258), 1.0)
        expected = torch.softmax(logits_of(target.model, ids, len(tokens)), -1).topk(16).values
        torch.testing.assert_close(log_p[:, :16].exp(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "tvd"])
def test_the_gradient_is_that_of_the_loss_on_the_drafts_text_and_nothing_else(tmp_path, target, capture, name: str):
    """By hand: the texts taken as given, so no gradient passes through their sampling."""
    made = trainer_in(tmp_path, target, capture, settings(name))
    model, total, count = made.draft.model, torch.zeros(()), 0
    for batch in made.source.micro_batches(0):
        for _, ids, tokens, part in rows(batch):
            states = batch.raw_signal[part].contiguous().view(torch.bfloat16)
            log_p = torch.log_softmax(Head.of(target.model).logits(states).float(), -1)
            log_q = torch.log_softmax(logits_of(model, ids, len(tokens)), -1)
            losses = {
                "forward_kl": (log_p.exp() * (log_p - log_q)).sum(),
                "reverse_kl": (log_q.exp() * (log_q - log_p)).sum(),
                "tvd": (log_p.exp() - log_q.exp()).abs().sum() / 2,
            }
            total, count = total + losses[name], count + len(tokens)
    assert_same_step(gradients(made), model, total / count)


def test_writing_leaves_no_trace_in_the_draft(target, capture):
    draft = draft_of(target)
    before = [p.detach().clone() for p in draft.model.parameters()]
    for form in ("sampled", "assisted"):
        source = source_of(target, capture, settings(form=form), draft)
        assert not any(t.requires_grad for b in source.micro_batches(0) for t in vars(b).values() if torch.is_tensor(t))
    assert all(p.grad is None for p in draft.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, draft.model.parameters(), strict=True))


@pytest.mark.parametrize("form", ["sampled", "assisted"])
def test_a_loss_that_copies_text_never_copies_the_drafts(tmp_path, target, capture, form: str):
    """forward_kl and sft together learn of the draft's text what forward_kl alone does."""
    both = [LossTerm(name="sft", weight=2.0), LossTerm(name="forward_kl")]
    mixed = trainer_in(tmp_path, target, capture, settings(both, form=form))
    alone = trainer_in(tmp_path, target, capture, settings("forward_kl", form=form))
    for mine, theirs in zip(gradients(mixed)[1], gradients(alone)[1], strict=True):
        torch.testing.assert_close(mine, theirs)
    copied = trainer_in(tmp_path, target, capture, settings(both, form=form, share=0.0))
    offline = trainer_in(tmp_path, target, capture, settings("forward_kl", form=form, share=0.0))
    assert not torch.allclose(gradients(copied)[1][0], gradients(offline)[1][0])


# ---- assisted -------------------------------------------------------------------------------


def test_anchors_are_distinct_places_of_the_text_drawn_anew_each_step():
    found = anchors(0, 3, "q1", 12, 4)
    assert found == sorted(set(found)) == anchors(0, 3, "q1", 12, 4)
    assert len(found) == 4
    assert anchors(0, 3, "q1", 2, 4) == [0, 1]
    others = [anchors(0, 4, "q1", 12, 4), anchors(1, 3, "q1", 12, 4), anchors(0, 3, "q2", 12, 4)]
    assert all(other != found for other in others)
    counts = torch.bincount(torch.tensor([a for step in range(600) for a in anchors(0, step, "q", 6, 2)]))
    assert counts.tolist() == pytest.approx([200] * 6, abs=50)  # every place alike, about four deviations


def test_a_block_ends_with_the_answer():
    assert until_stop([5, 6, 7], frozenset({9})) == [5, 6, 7]
    assert until_stop([5, 9, 7, 9], frozenset({9})) == [5, 9]


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (0, [[0, 1], [0, 0.5], [0, 0.25]]),
        (2, [[1, 0], [1, 0], [0, 1]]),
        (3, [[1, 0], [1, 0], [1, 0]]),
    ],
)
def test_accepted_tokens_get_the_loss_and_refused_ones_fading_reverse_kl(accepted: int, expected: list[list[float]]):
    assert block_weights(accepted, 3, 0.5, [LossTerm(name="tvd")]).tolist() == expected


def test_blocks_are_proposed_and_judged_as_decoding_does(target, capture):
    """Text and number of accepted tokens equal those of the first round of speculative decoding with the same draws."""
    draft = near_draft(target)
    spec = settings(form="assisted", changes={"batch_size": 6})
    source = source_of(target, capture, spec, draft)
    answers = {a.prompt_id: a for a in capture.answers}
    found = {
        name: (tokens, batch.weights[part])
        for batch in source.micro_batches(0)
        for name, _, tokens, part in rows(batch)
    }
    places = {a.prompt_id: anchors(0, 0, a.prompt_id, len(a.token_ids), 4) for a in capture.answers}
    assert set(found) == {f"{name}@{place}" for name, own in places.items() for place in own}
    refused = 0
    for name, (tokens, weights) in found.items():
        prompt_id, _, place = name.partition("@")
        answer, room = answers[prompt_id], LIMITS.max_new_tokens - int(place)
        context = [*answer.prompt_ids, *answer.token_ids[: int(place)]]
        accepted = int(weights[:, 0].sum())
        assert len(tokens) <= min(spec.on_policy.block_tokens, room)
        draws = Uniforms(0, [f"block:0:{name}"]).take([0], 2 * spec.on_policy.block_tokens)[0]
        kept = 0
        for i, token in enumerate(tokens):
            ids = torch.tensor([[*context, *tokens[:i]]])
            p, q = (torch.softmax(m(input_ids=ids).logits[0, -1].double(), -1) for m in (target.model, draft.model))
            assert token == int((q.cumsum(-1) <= draws[i]).sum())
            if kept == i and draws[spec.on_policy.block_tokens + i] <= p[token] / q[token]:
                kept += 1
        assert accepted == kept
        refused += kept < len(tokens)
    assert 0 < refused < len(found)


def test_a_draft_equal_to_its_target_has_every_block_accepted(target, capture):
    twin = draft_of(target, layers=4)
    source = source_of(target, capture, settings(form="assisted", changes={"batch_size": 6}), twin)
    for step in range(4):
        for batch in source.micro_batches(step):
            assert batch.weights is not None
            assert batch.weights[:, 0].all()
            assert not batch.weights[:, 1].any()


@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_as_many_are_accepted_as_in_decoding(target, capture, temperature: float):
    """The rate of accepted among judged tokens over many blocks, against the decoder's from the same places."""
    draft = near_draft(target)
    spec = settings(form="assisted", temperature=temperature, changes={"batch_size": 6})
    source = source_of(target, capture, spec, draft)
    judged = accepted = 0
    contexts = []
    for step in range(12):
        for batch in source.micro_batches(step):
            for _, ids, tokens, part in rows(batch):
                own = int(batch.weights[part][:, 0].sum())
                accepted, judged = accepted + own, judged + min(own + 1, len(tokens))
                contexts.append(ids[: len(ids) - len(tokens)])
    decode_settings = DecodeSettings(Sampling(temperature), FixedLength(4), 5, target.stop_ids, seed=1)
    decoding = speculative_decode(target.model, draft.model, contexts, decode_settings)
    first = [next(decoding) for _ in contexts]
    theirs = sum(r.accepted for r in first) / sum(r.accepted + r.rejected for r in first)
    assert accepted / judged == pytest.approx(
        theirs, abs=0.12
    )  # some 500 judged tokens each: four deviations of the difference


def test_the_assisted_gradient_by_hand(tmp_path, target, capture):
    """Forward KL where accepted, 0.8^k of reverse KL from the refused one on, divided by all positions."""
    spec = settings(form="assisted", changes={"batch_size": 6})
    made = trainer_in(tmp_path, target, capture, spec, draft=near_draft(target))
    model, total, count, seen = made.draft.model, torch.zeros(()), 0, set()
    for batch in made.source.micro_batches(0):
        for _, ids, tokens, part in rows(batch):
            log_p = torch.log_softmax(
                Head.of(target.model).logits(batch.raw_signal[part].contiguous().view(torch.bfloat16)).float(), -1
            )
            log_q = torch.log_softmax(logits_of(model, ids, len(tokens)), -1)
            forward, reverse = (log_p.exp() * (log_p - log_q)).sum(-1), (log_q.exp() * (log_q - log_p)).sum(-1)
            accepted = int(batch.weights[part][:, 0].sum())
            total = total + forward[:accepted].sum()
            total = total + sum(0.8**k * value for k, value in enumerate(reverse[accepted:]))
            count += len(tokens)
            seen.add(accepted < len(tokens))
    assert seen == {True, False}
    assert_same_step(gradients(made), model, total / count)


def test_an_assisted_run_with_share_0_learns_what_an_offline_one_does(tmp_path, target, capture):
    plain = trainer_in(tmp_path, target, capture, settings(share=0.0))
    assisted = trainer_in(tmp_path, target, capture, settings(share=0.0, form="assisted"))
    assert [t.name for t in assisted.source.terms] == ["forward_kl", "reverse_kl"]
    mine, theirs = gradients(assisted), gradients(plain)
    assert mine[0] == pytest.approx(theirs[0])
    for a, b in zip(mine[1], theirs[1], strict=True):
        torch.testing.assert_close(a, b)


# ---- other drafts, other dtypes -------------------------------------------------------------


@pytest.mark.parametrize("form", ["sampled", "assisted"])
def test_a_trimmed_draft_writes_its_own_ids_and_learns(tmp_path, target, capture, form: str):
    draft = trim(draft_of(target), target, TRIMMED)
    spec = settings(form=form, changes={"batch_size": 6, "max_steps": 25, "checkpoint_every": 1000})
    made = trainer_in(tmp_path, target, capture, spec, draft=draft)
    known = set(TRIMMED.tolist())
    for batch in made.source.micro_batches(0):
        assert set(batch.token_ids.tolist()) <= known
        for _, ids, tokens, part in rows(batch):
            log_p, _ = made.source.read_signal(batch, part).align(torch.zeros(len(tokens), len(TRIMMED)), 1.0)
            expected = torch.log_softmax(logits_of(target.model, ids, len(tokens)), -1)[:, TRIMMED]
            torch.testing.assert_close(log_p, expected, rtol=0, atol=0.06)
    before = gradients(made)[0]
    made.run()
    assert gradients(made)[0] < 0.9 * before


@pytest.mark.parametrize(
    ("form", "vocab"),
    [("sampled", 250), ("sampled", 264), ("assisted", 264)],  # text of the target could not be read with fewer rows
)
def test_a_draft_padded_otherwise_writes_the_targets_ids_alone(tmp_path, target, form: str, vocab: int):
    capture = captured(tmp_path, target, questions(2))
    other = tiny_llama(layers=2, vocab=vocab, seed=3, tie_word_embeddings=False).requires_grad_(True)
    if vocab > 258:
        with torch.no_grad():  # a row of the padding that the draft would love to write
            other.get_output_embeddings().weight[258:] = 0
            other.get_output_embeddings().weight[260] = other.get_output_embeddings().weight[:258].sum(0) * 3
    draft = replace(draft_of(target), model=other)
    made = trainer_in(tmp_path / "run", target, capture, settings(form=form), draft=draft)
    for step in range(3):
        batches = made.source.micro_batches(step)
        assert max(int(b.token_ids.max()) for b in batches) < min(vocab, 258)
    assert math.isfinite(gradients(made)[0])


@pytest.mark.parametrize("form", ["sampled", "assisted"])
def test_a_bfloat16_target_scores_a_float32_draft(tmp_path, form: str):
    target = loaded(tiny_llama().to(torch.bfloat16), "tiny-bf16")
    capture = captured(tmp_path, target)
    made = trainer_in(tmp_path / "run", target, capture, settings(form=form, changes={"precision": "bfloat16"}))
    assert made.draft.model.dtype == torch.float32
    made._step(0)
    assert made.outcome.steps_done == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("form", ["sampled", "assisted"])
@pytest.mark.parametrize("trimmed", [False, True])
def test_on_a_gpu_all_of_it_runs(tmp_path, form: str, trimmed: bool):
    target = loaded(tiny_llama().cuda().to(torch.bfloat16), "tiny-cuda")
    capture = captured(tmp_path, target)
    draft = draft_of(target)
    draft = trim(draft, target, TRIMMED.cuda()) if trimmed else draft
    spec = settings(form=form, share=0.5, changes={"precision": "auto"})
    assert trainer_in(tmp_path / "run", target, capture, spec, draft=draft).run().steps_done == STEPS


def test_a_capture_of_text_alone_is_refused(tmp_path, target):
    with pytest.raises(DraftbenchError, match="signal 'none'"):
        source_of(target, captured(tmp_path, target, signal="none"))


def test_the_mode_is_in_the_registry(tmp_path, target, capture):
    draft, spec = draft_of(target), settings(share=1.0)
    material = Material(draft, target, [], capture.format, capture, spec, LIMITS, tmp_path, lambda event: None)
    made = batch_source(material)
    assert all(
        same(a, b)
        for a, b in zip(made.micro_batches(2), source_of(target, capture, spec, draft).micro_batches(2), strict=True)
    )


# ---- a whole run ----------------------------------------------------------------------------


def fingerprint(folder: Path, outcome: Outcome) -> dict[str, Any]:
    numbers = {key: value for key, value in asdict(outcome).items() if key != "seconds"}
    return {which: sha256_file(folder / "draft" / which / "draft.safetensors") for which in ("best", "last")} | numbers


def tokens_at(folder: Path, target: LoadedModel, capture: Capture, form: str, **more: Any) -> Trainer:
    return trainer_in(folder, target, capture, settings(form=form, share=0.6), **more)


@pytest.mark.parametrize("form", ["sampled", "assisted"])
@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_run_broken_off_ends_with_the_same_weights(tmp_path, target, capture, form: str, step: int):
    unbroken = fingerprint(tmp_path / "whole", tokens_at(tmp_path / "whole", target, capture, form).run())
    assert unbroken["steps_done"] == STEPS
    assert unbroken["tokens_seen"] == unbroken["positions_trained"]

    def listen(told: dict[str, Any]) -> None:
        if told["done"] == step:
            raise PowerCut

    with pytest.raises(PowerCut):
        tokens_at(tmp_path / "cut", target, capture, form, progress=Progress(quiet=True, listen=listen)).run()
    outcome = tokens_at(tmp_path / "cut", target, capture, form).run()
    assert fingerprint(tmp_path / "cut", outcome) == unbroken


def train_and_die(folder: Path, captures: Path) -> None:
    """Trains until step 5, then is killed: the last checkpoint is that of step 3."""
    target = stopping_target()
    capture = captured(captures, target)

    def listen(told: dict[str, Any]) -> None:
        if told["phase"] == "train" and told["done"] == 5:
            kill_myself()

    tokens_at(folder, target, capture, "assisted", progress=Progress(quiet=True, listen=listen)).run()


@pytest.mark.slow
@pytest.mark.slow
def test_a_killed_process_is_resumed_to_the_same_weights(tmp_path, target, capture):
    run_until_killed(train_and_die, tmp_path / "run", capture.folder.parent.parent)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    outcome = tokens_at(tmp_path / "run", target, capture, "assisted").run()
    unbroken = fingerprint(tmp_path / "whole", tokens_at(tmp_path / "whole", target, capture, "assisted").run())
    assert fingerprint(tmp_path / "run", outcome) == unbroken


@pytest.mark.parametrize("form", ["sampled", "assisted"])
@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"sft"}))
def test_every_divergence_takes_a_step(tmp_path, target, capture, compact_capture, name: str, form: str):
    for kept in (capture, compact_capture):
        events: list[dict[str, Any]] = []
        made = trainer_in(
            tmp_path / kept.format.kind,
            target,
            kept,
            settings(name, form=form),
            emit=into(events),
        )
        made._step(0)
        assert math.isfinite(events[0]["loss"])
        assert events[0]["grad_norm"] > 0


def test_training_on_its_own_text_brings_the_draft_nearer_to_its_target(tmp_path, target, capture):
    spec = settings(changes={"batch_size": 6, "max_steps": 30, "checkpoint_every": 1000})
    events: list[dict[str, Any]] = []
    trainer_in(tmp_path, target, capture, spec, evaluate=None, emit=into(events)).run()
    losses = [event["loss"] for event in events if event["kind"] == "train"]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
