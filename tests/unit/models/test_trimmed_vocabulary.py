"""Drafts that can propose only some of their target's ids: nothing about the target's output may change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.capture.signal import ExactSignal, LogitsSignal, TrimmedSignal, log_totals
from engine.config.schema import DraftSpec, LossTerm, TrainSpec
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from engine.distill.chunked import Positions, chunked_loss
from engine.distill.losses import LOSSES, Context
from engine.distill.modes.offline import OfflineBatches
from engine.distill.trainer import Trainer
from engine.errors import DraftbenchError
from engine.export.whole_vocabulary import with_rows, with_whole_vocabulary
from engine.measure.acceptance import draft_states, exact_acceptance
from engine.models.draft import Draft, initialise_draft, load_draft, own_state, save_draft, trim
from engine.models.head import DRAFT_IDS, Head, hidden_states
from engine.models.load import LoadedModel
from engine.models.vocabulary import frequent_ids, known_rows, row_of_ids, spread
from tests.conftest import tiny_llama
from tests.tiny_pair import as_draft, captured, loaded

pytestmark = pytest.mark.slow

VOCAB = 258
IDS = torch.tensor([1, 101, 32, 97, 7, 116, 200, 11, 105, 110, 111, 115, 228, 160])


def trimmed(target: LoadedModel, ids: torch.Tensor = IDS, **spec: Any) -> Draft:
    return trim(initialise_draft(target, DraftSpec(layers=2, **spec), seed=0), target, ids)


def with_mean_direction() -> Any:
    """A tiny target whose hidden states share a direction, as those of every trained model do."""
    model = tiny_llama()
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 9.0
    return model


def written(target: LoadedModel, draft: Any, sampling: Sampling, seed: int) -> list[int]:
    settings = DecodeSettings(sampling, FixedLength(3), 14, frozenset({1}), seed)
    rounds = speculative_decode(target.model, draft, [[0, 104, 105]], settings)
    return [token for r in rounds for token in r.emitted]


def test_the_most_frequent_ids_are_kept_and_those_that_end_an_answer_always():
    counts = torch.tensor([0, 5, 0, 9, 0, 9, 0, 0])
    assert frequent_ids(counts, 4, always=[7]).tolist() == [7, 3, 5, 1]
    assert frequent_ids(counts, 6, always=[7], then=[4, 3]).tolist() == [7, 3, 5, 1, 4, 0]


def test_spread_and_row_of_ids_undo_each_other():
    probs = torch.softmax(torch.randn(2, len(IDS), generator=torch.Generator().manual_seed(0)), -1)
    whole = spread(probs, IDS, VOCAB)
    assert whole.shape == (2, VOCAB)
    assert torch.equal(whole[:, IDS], probs)
    assert torch.allclose(whole.sum(-1), torch.ones(2))
    rows = row_of_ids(IDS, VOCAB)
    assert rows[IDS].tolist() == list(range(len(IDS)))
    assert int((rows >= 0).sum()) == len(IDS)


def test_a_token_beyond_what_the_draft_knows_has_no_row():
    tokens = torch.tensor([0, 5, 9, 10, 12])
    assert known_rows(tokens, 10, None, 10).tolist() == [0, 5, 9, -1, -1]
    assert known_rows(tokens, 3, torch.tensor([9, 0, 3]), 10).tolist() == [1, -1, 0, -1, -1]


def test_greedy_text_is_the_targets_own():
    target = loaded(tiny_llama())
    draft = trimmed(target)
    assert written(target, draft.model, Sampling(0.0), 0) == written(target, None, Sampling(0.0), 0)


def test_a_draft_of_all_the_targets_layers_is_refused_only_where_it_has_no_id():
    target = loaded(tiny_llama())
    draft = trim(initialise_draft(target, DraftSpec(layers=4), seed=0), target, IDS)
    known = set(IDS.tolist())
    settings = DecodeSettings(Sampling(0.0), FixedLength(3), 30, frozenset())
    rounds = list(speculative_decode(target.model, draft.model, [[0, 104, 105]] * 8, settings))
    proposed = [t for r in rounds for t in r.tokens if t.fate in ("accepted", "rejected", "discarded")]
    assert {t.token_id for t in proposed} <= known
    corrected = [t.token_id for r in rounds for t in r.tokens if t.fate == "corrected"]
    assert corrected
    assert not known & set(corrected)


@pytest.mark.slow
def test_sampled_text_follows_the_targets_distribution():
    """The first token over many seeds, against the target's own probabilities: total variation within its noise."""
    target = loaded(tiny_llama())
    draft = trimmed(target)
    sampling, draws = Sampling(0.7), 1500
    first = Counter(
        next(
            speculative_decode(
                target.model, draft.model, [[0, 104]], DecodeSettings(sampling, FixedLength(2), 3, frozenset(), seed)
            )
        ).emitted[0]
        for seed in range(draws)
    )
    logits = target.model(input_ids=torch.tensor([[0, 104]])).logits[0, -1] / 0.7
    truth = torch.softmax(logits.double(), -1)
    result = torch.tensor([first[i] / draws for i in range(VOCAB)], dtype=torch.float64)
    expected_noise = float((truth * (1 - truth) / draws).sqrt().sum()) / 2
    assert float((result - truth).abs().sum()) / 2 < 1.5 * expected_noise


def problem(temperature: float) -> tuple[torch.Tensor, torch.Tensor, Head]:
    generator = torch.Generator().manual_seed(4)
    hidden, weight = torch.randn(6, 32, generator=generator), torch.randn(VOCAB, 32, generator=generator) / 3
    return torch.randn(6, len(IDS), generator=generator), hidden, Head(weight, None)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_trimmed_signal_is_the_whole_one_at_the_drafts_ids(temperature: float):
    logits, hidden, head = problem(temperature)
    signal = TrimmedSignal(hidden, head.of_ids(IDS), log_totals(hidden, head, temperature))
    target, draft = signal.align(logits, temperature)
    whole, _ = ExactSignal(hidden, head).align(torch.randn(6, VOCAB), temperature)
    assert torch.allclose(target, whole[:, IDS], atol=1e-5)
    assert torch.allclose(draft.exp().sum(-1), torch.ones(6))


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"tvd_pp", "sft", "forward_kl", "lk_hybrid", "argmax_ce"}))
def test_gradients_are_those_of_the_whole_vocabulary_with_q_zero_elsewhere(name: str):
    """Against the plain form: the draft's other logits so low that they hold no probability."""
    logits, hidden, head = problem(1.0)
    signal = TrimmedSignal(hidden, head.of_ids(IDS), log_totals(hidden, head, 1.0))
    context = Context(torch.zeros(6, dtype=torch.long), torch.rand(6))
    small = logits.clone().requires_grad_()
    LOSSES[name](small, signal, context).sum().backward()
    wide = torch.full((6, VOCAB), -60.0).index_copy(1, IDS, logits).requires_grad_()
    LOSSES[name](wide, LogitsSignal(head.logits(hidden)), context).sum().backward()
    assert small.grad is not None
    assert wide.grad is not None
    assert torch.allclose(small.grad, wide.grad[:, IDS], atol=2e-5)


def test_forward_kl_draws_q_to_p_renormalised_with_the_weight_of_what_the_draft_can_say():
    """d/dz of sum p (log p - log q) over its ids is (sum p) q - p: zero at q = p / sum p, where acceptance is best."""
    logits, hidden, head = problem(1.0)
    signal = TrimmedSignal(hidden, head.of_ids(IDS), log_totals(hidden, head, 1.0))
    context = Context(torch.zeros(6, dtype=torch.long), torch.rand(6))
    leaf = logits.clone().requires_grad_()
    LOSSES["forward_kl"](leaf, signal, context).sum().backward()
    p = torch.softmax(head.logits(hidden).double(), -1)[:, IDS]
    expected = p.sum(-1, keepdim=True) * torch.softmax(logits.double(), -1) - p
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad.double(), expected, atol=1e-6)


def test_argmax_ce_teaches_the_likeliest_id_that_the_draft_has():
    logits, hidden, head = problem(1.0)
    signal = TrimmedSignal(hidden, head.of_ids(IDS), log_totals(hidden, head, 1.0))
    loss = LOSSES["argmax_ce"](logits, signal, Context(torch.zeros(6, dtype=torch.long), torch.rand(6)))
    best = head.logits(hidden)[:, IDS].argmax(-1)
    assert (best != head.logits(hidden).argmax(-1)).any(), "somewhere the target's own is not among them"
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits, best, reduction="none"), atol=1e-5)


def test_tvd_is_one_minus_the_acceptance():
    logits, hidden, head = problem(1.0)
    signal = TrimmedSignal(hidden, head.of_ids(IDS), log_totals(hidden, head, 1.0))
    context = Context(torch.zeros(6, dtype=torch.long), torch.rand(6))
    q = spread(torch.softmax(logits, -1), IDS, VOCAB)
    acceptance = torch.minimum(torch.softmax(head.logits(hidden), -1), q).sum(-1)
    assert torch.allclose(LOSSES["tvd"](logits, signal, context), 1 - acceptance, atol=1e-5)


def test_sft_learns_nothing_from_a_token_the_draft_has_no_id_for():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 32, generator=generator, requires_grad=True)
    head = Head(torch.randn(VOCAB, 32, generator=generator), None).of_ids(IDS)
    tokens = row_of_ids(IDS, VOCAB)[torch.tensor([101, 102])]  # 102 is none of IDS
    loss = chunked_loss(hidden, head, Positions(tokens, torch.rand(2), lambda part: None), [LossTerm(name="sft")])
    loss.backward()
    assert hidden.grad is not None
    assert float(hidden.grad[0].abs().sum()) > 0
    assert float(hidden.grad[1].abs().sum()) == 0


def test_a_checkpoint_holds_the_ids_but_not_the_shared_rows(tmp_path: Path):
    target = loaded(tiny_llama())
    draft = trimmed(target)
    save_draft(tmp_path / "draft", draft)
    again = load_draft(tmp_path / "draft", target)
    assert again.info == draft.info
    assert again.info.vocabulary == len(IDS)
    assert not any("embed" in name or "lm_head" in name for name in own_state(again.model, again.info))
    ids = torch.tensor([[0, 5, 7, 90, 33]])
    assert torch.equal(again.model(input_ids=ids).logits, draft.model(input_ids=ids).logits)
    assert torch.equal(Head.of(again.model).ids, IDS)


def test_it_serves_a_fine_tuned_target_with_the_same_embeddings_and_no_other(tmp_path: Path):
    base, other = loaded(tiny_llama()), loaded(tiny_llama(seed=3), "other")
    save_draft(tmp_path / "draft", trimmed(base))
    tuned = loaded(tiny_llama(seed=3), "tuned")
    with torch.no_grad():
        tuned.model.get_input_embeddings().weight.copy_(base.model.get_input_embeddings().weight)
    assert load_draft(tmp_path / "draft", tuned).info.vocabulary == len(IDS)
    with pytest.raises(DraftbenchError, match="another target"):
        load_draft(tmp_path / "draft", other)


def test_a_trimmed_draft_can_be_trimmed_otherwise_where_it_shares_the_head():
    target = loaded(tiny_llama())
    again = trim(trimmed(target), target, torch.tensor([1, 50, 60]))
    assert again.model(input_ids=torch.tensor([[0, 5]])).logits.shape[-1] == 3
    own = trimmed(target, share_embeddings=False)
    with pytest.raises(DraftbenchError, match="head of its own"):
        trim(own, target, torch.tensor([1, 50, 60]))


@pytest.mark.parametrize("count", [1, VOCAB])
def test_a_vocabulary_that_is_no_part_of_the_targets_is_refused(count: int):
    target = loaded(tiny_llama())
    with pytest.raises(DraftbenchError, match=r"draft\.vocabulary"):
        trimmed(target, torch.arange(count))


def test_training_raises_the_acceptance_and_resumes_bit_for_bit(tmp_path: Path):
    target = loaded(tiny_llama())
    capture = captured(tmp_path, target)
    counts = torch.bincount(torch.cat([torch.tensor(a.token_ids) for a in capture.answers]), minlength=VOCAB)
    ids = frequent_ids(counts, 40, always=[1])
    settings = TrainSpec(
        epochs=20,
        learning_rate=5e-3,
        precision="float32",
        checkpoint_every=7,
        eval_every=100,
        schedule="constant",
        warmup_fraction=0,
    )

    def train(folder: Path, stop_after: int | None = None) -> Draft:
        draft = trimmed(target, ids)
        source = OfflineBatches(capture, settings, Head.of(target.model), target.device, Head.of(draft.model).ids)
        trainer = Trainer(draft, source, settings, folder)
        if stop_after is not None:
            source.steps = stop_after
        trainer.run()
        return draft

    def acceptance(draft: Draft) -> float:
        result = exact_acceptance(draft.model, Head.of(target.model), capture, Sampling(1.0))
        return float(torch.cat([r.overlap for r in result]).mean())

    whole = train(tmp_path / "whole")
    assert acceptance(whole) > acceptance(trimmed(target, ids)) + 0.01
    train(tmp_path / "halved", stop_after=7)
    resumed = train(tmp_path / "halved")
    for name, tensor in own_state(whole.model, whole.info).items():
        assert torch.equal(tensor, own_state(resumed.model, resumed.info)[name]), name


def test_an_exported_model_never_proposes_what_it_has_no_id_for(tmp_path: Path):
    target = loaded(with_mean_direction())
    capture = captured(tmp_path, target, max_new_tokens=40)
    draft = trimmed(target)
    states = draft_states(draft.model, capture, most_tokens=8192)
    plain = with_whole_vocabulary(draft, states, VOCAB)
    assert getattr(plain, DRAFT_IDS, None) is None
    ids = torch.tensor([[0, 104, 101, 121, 33, 63]])
    q = torch.softmax(plain(input_ids=ids).logits.float(), -1)
    own = spread(torch.softmax(Head.of(draft.model).logits(hidden_states(draft.model, ids)).float(), -1), IDS, VOCAB)
    assert torch.allclose(q, own, atol=1e-6)
    plain.save_pretrained(tmp_path / "out")
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(again(input_ids=ids).logits, plain(input_ids=ids).logits)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [VOCAB - 2, VOCAB + 62])
def test_rows_are_left_out_or_added_without_changing_what_is_proposed(tmp_path: Path, rows: int, tied: bool):
    target = loaded(with_mean_direction())
    draft = as_draft(target.model) if tied else trimmed(target)
    states = draft_states(draft.model, captured(tmp_path, target, max_new_tokens=40), most_tokens=8192)
    model = draft.model if tied else with_whole_vocabulary(draft, states, VOCAB)
    changed = with_rows(model, states, rows)
    assert changed.config.vocab_size == rows
    changed.save_pretrained(tmp_path / "out")
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.tensor([[0, 104, 101, 121, 33, 63]])
    logits = again(input_ids=ids).logits.detach().float()
    assert logits.shape[-1] == rows
    kept = min(rows, VOCAB)
    assert torch.allclose(logits[..., :kept], model(input_ids=ids).logits[..., :kept].float(), atol=1e-5)
    assert float(torch.softmax(logits, -1)[..., kept:].sum(-1).max() if rows > VOCAB else 0.0) < 1e-9
    assert model.get_output_embeddings().weight.shape[0] == VOCAB, "the run's own draft is left as it was"


def test_a_model_whose_states_have_no_mean_is_not_exported_wrongly(tmp_path: Path):
    target = loaded(tiny_llama())
    draft = trimmed(target)
    states = draft_states(draft.model, captured(tmp_path, target, max_new_tokens=40), most_tokens=8192)
    with pytest.raises(DraftbenchError, match="cannot be given the ids that it never proposes"):
        with_whole_vocabulary(draft, states, VOCAB)


def test_a_compact_signal_is_refused(tmp_path: Path):
    target = loaded(tiny_llama())
    capture = captured(tmp_path, target, signal="compact", signal_top_k=8)
    with pytest.raises(DraftbenchError, match="compact"):
        OfflineBatches(capture, TrainSpec(), Head.of(target.model), target.device, IDS)


@pytest.mark.parametrize("scaling", [{"logit_scale": 1 / 16}, {"final_logit_softcapping": 80.0}], ids=str)
def test_an_export_looks_at_the_logits_as_they_are_served(tmp_path: Path, scaling: dict[str, float]):
    """Families scale or cap their logits behind the head; a row that is low before that need not be low after it."""
    target = loaded(with_mean_direction())
    draft = trimmed(target)
    states = draft_states(draft.model, captured(tmp_path, target, max_new_tokens=40), most_tokens=8192)
    for name, value in scaling.items():
        setattr(draft.model.config, name, value)
    plain = with_whole_vocabulary(draft, states, VOCAB)
    logits = Head.of(plain).logits(states).detach()
    others = torch.ones(VOCAB, dtype=torch.bool)
    others[IDS] = False
    assert float(torch.softmax(logits, -1)[:, others].sum(-1).max()) < 1e-9
