"""The speculative loop as a whole: what it writes is the target's, and every number it tells is recomputed here."""

import itertools
from dataclasses import replace

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
)

from engine.decode.events import EMITTED, PROPOSED, Fate
from engine.decode.sampling import Sampling, distribution, overlap
from engine.decode.settings import NO_DRAFT, AdaptiveLength, DecodeSettings, FixedLength
from engine.decode.speculative import plain_decode, speculative_decode
from engine.errors import DraftbenchError
from engine.models.vocabulary import align_logits
from tests.conftest import tiny_llama
from tests.tiny_pair import noisy_copy

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
TARGET = tiny_llama()
NOISY = noisy_copy()  # accepts about two tokens in three
UNRELATED = tiny_llama(layers=2, seed=5)
PROMPTS = [[5, 6, 7], [8] * 9, [9, 10, 11, 12, 13], [200]]
GREEDY = Sampling(0.0)
SETTINGS = [
    Sampling(t, k, p) for t, (k, p) in itertools.product((0.0, 0.7, 1.0), ((0, 1.0), (20, 1.0), (0, 0.8), (20, 0.8)))
]


def decode(draft, prompts=PROMPTS, sampling=GREEDY, *, gamma=3, limit=14, stop=(), seed=0, **more):
    length = more.pop("length", None) or FixedLength(gamma)
    settings = DecodeSettings(sampling, length, limit, frozenset(stop), seed)
    return list(speculative_decode(TARGET, draft, prompts, settings, **more))


def plain(prompts=PROMPTS, sampling=GREEDY, *, limit=14, stop=(), seed=0):
    return list(plain_decode(TARGET, prompts, DecodeSettings(sampling, NO_DRAFT, limit, frozenset(stop), seed)))


def texts(rounds, rows=4):
    written = [[] for _ in range(rows)]
    for r in rounds:
        written[r.row] += r.emitted
    return written


def told(rounds, row):
    """What a row's rounds say, less the clock."""
    return [
        (r.number, r.num_draft_tokens, [(t.token_id, t.fate) for t in r.tokens], r.finish_reason)
        for r in rounds
        if r.row == row
    ]


# ---- the text is the target's


def generated(model, prompt, **options):
    ids = torch.tensor([prompt])
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **options)
    return whole[0, len(prompt) :].tolist()


def test_plain_greedy_is_what_transformers_generates():
    # generate() forbids the end-of-sequence id with min_new_tokens; the tiny target does not choose it here
    expected = [generated(TARGET, prompt, min_new_tokens=25, max_new_tokens=25) for prompt in PROMPTS]
    assert texts(plain(limit=25)) == expected


def gpt2():
    """Learned positions."""
    return GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3))


def granite():
    """Logits divided, embeddings multiplied."""
    return GraniteForCausalLM(GraniteConfig(**SMALL, **SHAPE, logits_scaling=4.0, embedding_multiplier=3.0))


def cohere():
    """Logits multiplied."""
    return CohereForCausalLM(CohereConfig(**SMALL, **SHAPE, logit_scale=0.25))


SMALL = {"vocab_size": 258, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


@pytest.mark.parametrize("make", [gpt2, granite, cohere])
def test_other_families_decode_as_transformers_does(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
    settings = DecodeSettings(GREEDY, FixedLength(3), 10, frozenset())
    expected = [generated(model, prompt, max_new_tokens=10) for prompt in PROMPTS]
    assert texts(plain_decode(model, PROMPTS, settings)) == expected
    rounds = list(speculative_decode(model, NOISY, PROMPTS, settings))
    assert texts(rounds) == expected
    with torch.no_grad():
        probs = torch.softmax(model(input_ids=torch.tensor([PROMPTS[3]])).logits[0, -1], -1)
    sampled = next(plain_decode(model, [PROMPTS[3]], replace(settings, sampling=Sampling(1.0)))).tokens[0]
    assert sampled.target_prob == pytest.approx(float(probs[sampled.token_id]), abs=1e-5)


def test_plain_greedy_stops_where_transformers_does():
    stop = texts(plain())[0][4]
    expected = generated(TARGET, PROMPTS[0], max_new_tokens=14, eos_token_id=stop)
    assert texts(plain([PROMPTS[0]], stop=[stop]), 1) == [expected]
    assert len(expected) == 5


@pytest.mark.parametrize("draft", [NOISY, UNRELATED, TARGET], ids=["noisy", "unrelated", "itself"])
@pytest.mark.parametrize("gamma", [1, 2, 5])
def test_greedy_text_is_the_targets_in_a_ragged_batch_and_alone(draft, gamma):
    expected = texts(plain())
    assert texts(decode(draft, gamma=gamma)) == expected
    for prompt, text in zip(PROMPTS, expected, strict=True):
        assert texts(decode(draft, [prompt], gamma=gamma), 1) == [text]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_a_draft_identical_to_its_target_is_always_accepted(sampling):
    rounds = decode(TARGET, sampling=sampling, limit=16)
    assert sum(r.rejected for r in rounds) == 0
    assert sum(r.accepted for r in rounds) == len(PROMPTS) * 12  # four full rounds of 3 + 1 each
    assert all(t.fate is not Fate.CORRECTED for r in rounds for t in r.tokens)


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.7, 20, 0.8)], ids=str)
def test_a_rows_rounds_do_not_depend_on_the_batch(sampling):
    names = ["a", "b", "c", "d"]
    together = decode(NOISY, sampling=sampling, names=names)
    for order in ([3, 1], [0], [2], [1, 3, 2, 0]):
        some = decode(NOISY, [PROMPTS[i] for i in order], sampling, names=[names[i] for i in order])
        for place, i in enumerate(order):
            assert told(some, place) == told(together, i)


def test_names_and_seeds_decide_the_draws():
    prompts = [PROMPTS[0]] * 3
    first = texts(decode(NOISY, prompts, Sampling(1.0), names=["a", "b", "a"]), 3)
    other = texts(decode(NOISY, prompts, Sampling(1.0), names=["a", "b", "a"], seed=1), 3)
    assert first[0] == first[2] != first[1]
    assert first[0] != other[0]


def test_sampled_text_follows_the_target_not_the_draft():
    # First tokens of many rows against the target's own probabilities: 1000 draws, 4 standard deviations.
    rows = 1000
    sampling = Sampling(1.0, top_k=6)
    rounds = decode(UNRELATED, [PROMPTS[0]] * rows, sampling, gamma=1, limit=2)
    first = torch.tensor([text[0] for text in texts(rounds, rows)]).bincount(minlength=258) / rows
    with torch.no_grad():
        p = distribution(TARGET(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1], sampling)
    assert ((first - p).abs() <= 4 * (p * (1 - p) / rows).sqrt() + 1e-9).all()


# ---- what the rounds tell


@torch.no_grad()
def fresh_probs(model, ids, sampling):
    """The distribution after each id: [position, vocab], by a forward without a cache."""
    readable = torch.tensor([ids]).clamp_max(model.config.vocab_size - 1)
    return distribution(align_logits(model(input_ids=readable).logits[0], 258), sampling)


def audit(rounds, prompts, draft, sampling):
    """Recompute p, q and their overlap of every token of every round."""
    for row, prompt in enumerate(prompts):
        written = list(prompt)
        for r in [r for r in rounds if r.row == row]:
            proposed = [t.token_id for t in r.tokens if t.fate in PROPOSED]
            p, q = (fresh_probs(model, written + proposed, sampling)[len(written) - 1 :] for model in (TARGET, draft))
            for i, t in enumerate(r.tokens):
                place = i if t.fate in PROPOSED else r.accepted
                assert t.position == len(written) - len(prompt) + place
                if t.fate is Fate.DISCARDED:
                    assert t.target_prob is t.uniform is t.overlap is None
                else:
                    assert t.target_prob == pytest.approx(float(p[place, t.token_id]), abs=1e-4)
                if t.fate is not Fate.BONUS:
                    assert t.draft_prob == pytest.approx(float(q[place, t.token_id]), abs=1e-4)
                if t.fate in (Fate.ACCEPTED, Fate.REJECTED):
                    assert t.overlap == pytest.approx(float(overlap(p[place], q[place])), abs=1e-4)
                    assert (t.uniform * t.draft_prob < t.target_prob) == (t.fate is Fate.ACCEPTED)
                else:
                    assert t.overlap is None
            written += [t.token_id for t in r.tokens if t.fate in EMITTED]


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.7, 30, 0.9), GREEDY], ids=str)
@pytest.mark.parametrize("gamma", [1, 3])
def test_every_probability_told_is_the_one_of_a_fresh_forward(sampling, gamma):
    """After full, partial and no acceptance alike: the recorded q is the sampled one, both caches are right."""
    rounds = decode(NOISY, sampling=sampling, gamma=gamma, limit=16, seed=2)
    audit(rounds, PROMPTS, NOISY, sampling)
    followed = {r.accepted for r in rounds if r.drafted == gamma and r.finish_reason is None}
    assert {0, gamma} <= followed  # both kinds of round were followed by another one that was looked at


def test_after_full_acceptance_the_draft_has_read_its_last_proposal():
    rounds = decode(TARGET, [PROMPTS[0]], Sampling(1.0), limit=13)
    assert [r.accepted for r in rounds] == [3, 3, 3, 0]
    audit(rounds, [PROMPTS[0]], TARGET, Sampling(1.0))


def test_fates_come_in_order_and_add_up():
    for r in decode(NOISY, sampling=Sampling(1.0), limit=30):
        fates = [t.fate for t in r.tokens]
        judged = [Fate.ACCEPTED] * r.accepted + [Fate.REJECTED] * r.rejected + [Fate.DISCARDED] * r.discarded
        assert fates[: r.drafted] == judged
        assert fates[r.drafted :] == [Fate.CORRECTED if r.rejected else Fate.BONUS]
        assert r.rejected <= 1
        assert len(r.emitted) == r.accepted + 1


def test_a_rejected_token_is_never_drawn_again_in_its_place_when_greedy():
    rejected = corrected = 0
    for r in decode(UNRELATED):
        by_fate = {t.fate: t for t in r.tokens}
        if Fate.REJECTED in by_fate:
            rejected += 1
            corrected += by_fate[Fate.REJECTED].token_id != by_fate[Fate.CORRECTED].token_id
    assert rejected == corrected > 0


def test_rounds_are_numbered_and_timed():
    rounds = decode(NOISY)
    for row in range(len(PROMPTS)):
        mine = [r for r in rounds if r.row == row]
        assert [r.number for r in mine] == list(range(len(mine)))
        assert [r.finish_reason for r in mine] == [None] * (len(mine) - 1) + ["length"]
    assert all(r.draft_s > 0 and r.verify_s > 0 and r.overhead_s > 0 for r in rounds if r.drafted)


def test_alternatives_are_the_likeliest_of_either_model():
    rounds = decode(NOISY, [PROMPTS[0]], Sampling(1.0), limit=5, alternatives=2)
    written = list(PROMPTS[0])
    for r in rounds:
        first = r.tokens[0]
        p, q = (fresh_probs(model, written, Sampling(1.0))[-1] for model in (TARGET, NOISY))
        wanted = set(p.topk(2).indices.tolist())
        if r.drafted:
            wanted |= set(q.topk(2).indices.tolist())
        found = {a.token_id: a for a in first.alternatives}
        assert wanted <= set(found)
        for token in p.topk(2).indices.tolist():
            assert found[token].target_prob == pytest.approx(float(p[token]), abs=1e-4)
        written += r.emitted
    assert all(t.alternatives == () for r in decode(NOISY, limit=5) for t in r.tokens)


def test_plain_rounds_propose_nothing():
    for r in plain(sampling=Sampling(1.0)):
        assert [t.fate for t in r.tokens] == [Fate.BONUS]
        assert (r.drafted, r.num_draft_tokens) == (0, 0)


def test_greedy_alternatives_are_only_what_a_model_would_say():
    for r in decode(NOISY, [PROMPTS[0]], Sampling(0.0), limit=8, alternatives=5):
        for token in r.tokens:
            assert all(a.target_prob or a.draft_prob for a in token.alternatives)
            assert sum(a.target_prob for a in token.alternatives) == (0 if token.fate is Fate.DISCARDED else 1)


# ---- where an answer ends


def end_of_sequence_at(place, gamma=4):
    """Rounds of a draft that is always right, with the text's token at `place` as end of sequence."""
    text = texts(plain([PROMPTS[0]]), 1)[0]
    assert text.index(text[place]) == place
    return text, decode(TARGET, [PROMPTS[0]], gamma=gamma, stop=[text[place]])


def test_end_of_sequence_inside_an_accepted_block_cuts_it_there():
    text, rounds = end_of_sequence_at(1)
    (only,) = rounds
    assert only.emitted == text[:2]
    assert [t.fate for t in only.tokens] == [Fate.ACCEPTED] * 2 + [Fate.DISCARDED] * 2
    assert only.finish_reason == "stop"
    assert (only.accepted, only.discarded, only.drafted) == (2, 2, 4)


def test_end_of_sequence_as_the_last_of_a_block_earns_no_bonus():
    text, rounds = end_of_sequence_at(3)
    assert [t.fate for t in rounds[0].tokens] == [Fate.ACCEPTED] * 4
    assert texts(rounds, 1) == [text[:4]]


def test_end_of_sequence_as_bonus_ends_the_row():
    text, rounds = end_of_sequence_at(4)
    assert [t.fate for t in rounds[0].tokens] == [Fate.ACCEPTED] * 4 + [Fate.BONUS]
    assert (len(rounds), rounds[0].finish_reason) == (1, "stop")
    assert texts(rounds, 1) == [text[:5]]


def test_end_of_sequence_as_correction_ends_the_row():
    prompt = PROMPTS[0]
    text = texts(plain([prompt]), 1)[0]
    free = decode(UNRELATED, [prompt])
    assert free[0].tokens[0].fate is Fate.REJECTED
    rounds = decode(UNRELATED, [prompt], stop=[text[0]])
    assert (len(rounds), rounds[0].finish_reason, rounds[0].emitted) == (1, "stop", text[:1])


def test_a_refused_or_discarded_end_of_sequence_does_not_end_the_row():
    free = decode(UNRELATED, [PROMPTS[0]])
    text = set(texts(free, 1)[0])
    refused = [t.token_id for r in free for t in r.tokens if t.fate is Fate.REJECTED and t.token_id not in text]
    discarded = [t.token_id for r in free for t in r.tokens if t.fate is Fate.DISCARDED and t.token_id not in text]
    for stop in (refused[0], discarded[0]):
        assert told(decode(UNRELATED, [PROMPTS[0]], stop=[stop]), 0) == told(free, 0)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0)], ids=str)
def test_a_row_that_stopped_leaves_the_others_as_they_were(sampling):
    free = decode(NOISY, sampling=sampling)
    text = texts(free)[1]
    place = next(i for i in range(2, 14) if text.index(text[i]) == i)
    rounds = decode(NOISY, sampling=sampling, stop=[text[place]])
    assert texts(rounds)[1] == text[: place + 1]
    for row in (0, 2, 3):
        whole = texts(free)[row]
        cut = whole.index(text[place]) + 1 if text[place] in whole else len(whole)
        assert texts(rounds)[row] == whole[:cut]


@pytest.mark.parametrize("draft", [TARGET, NOISY, UNRELATED], ids=["itself", "noisy", "unrelated"])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 9])
def test_the_length_limit_is_reached_and_never_passed(draft, limit):
    for sampling in (GREEDY, Sampling(1.0)):
        rounds = decode(draft, sampling=sampling, gamma=4, limit=limit)
        assert [len(text) for text in texts(rounds)] == [limit] * len(PROMPTS)
        for row in range(len(PROMPTS)):
            written = 0
            for r in [r for r in rounds if r.row == row]:
                assert r.drafted == min(4, limit - written - 1)  # what could not be kept is not proposed
                written += len(r.emitted)
            assert r.finish_reason == "length"


def test_nothing_is_written_where_nothing_may_be():
    assert decode(NOISY, limit=0) == []


# ---- adaptive length


def test_a_prompt_without_tokens_is_refused_by_its_name():
    with pytest.raises(DraftbenchError, match="prompt 'b' has no tokens"):
        decode(NOISY, [[5, 6], []], names=["a", "b"])


def test_names_are_as_many_as_prompts():
    with pytest.raises(ValueError, match="1 names for 2 prompts"):
        decode(NOISY, [[5, 6], [7]], names=["a"])


@pytest.mark.parametrize("of_the_draft", [False, True])
def test_a_model_in_training_is_not_decoded(of_the_draft):
    config = GPT2Config(vocab_size=258, n_embd=32, n_head=4, n_layer=2, resid_pdrop=0.5)
    trained = GPT2LMHeadModel(config).train()
    target, draft = (TARGET, trained) if of_the_draft else (trained, None)
    with pytest.raises(DraftbenchError, match="GPT2LMHeadModel is in training mode"):
        list(speculative_decode(target, draft, [[5]], DecodeSettings(GREEDY, FixedLength(2), 4, frozenset())))


def test_a_head_that_computes_more_than_its_weight_is_refused():
    model = tiny_llama()
    model.lm_head.register_forward_hook(lambda head, given, logits: logits.flip(-1))  # as an adapter of the head would
    with pytest.raises(DraftbenchError, match="not its head applied"):
        list(plain_decode(model, [[5]], DecodeSettings(GREEDY, NO_DRAFT, 4, frozenset())))


def test_adaptive_length_leaves_greedy_text_as_it_is():
    length = AdaptiveLength(5, lambda alpha: round(6 * alpha))
    rounds = decode(NOISY, limit=30, length=length)
    assert texts(rounds) == texts(plain(limit=30))
    gammas = {r.drafted for r in rounds}
    assert len(gammas) > 1
    assert max(gammas) <= 5


def test_the_length_rule_hears_exactly_what_the_rounds_tell():
    class Listening(FixedLength):
        def __init__(self):
            super().__init__(4)
            self.__dict__["heard"] = []

        def saw(self, accepted, examined):
            self.heard.append((accepted, examined))

    text = texts(plain([PROMPTS[2]]), 1)[0]
    length = Listening()
    rounds = decode(TARGET, [PROMPTS[2]], stop=[text[1]], length=length)
    assert length.heard == [(2, 2)]  # not the two that were discarded after the end
    length = Listening()
    rounds = decode(NOISY, sampling=Sampling(1.0), length=length)
    assert sum(a for a, _ in length.heard) == sum(r.accepted for r in rounds)
    assert sum(e for _, e in length.heard) == sum(r.accepted + r.rejected for r in rounds)


# ---- vocabularies of different size


@pytest.mark.parametrize("rows", [200, 300])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0), Sampling(1.0, 30, 0.9)], ids=str)
def test_a_draft_with_other_vocabulary_rows(rows, sampling):
    """A smaller one is also told tokens that it has no row for, a larger one never proposes what the target lacks."""
    draft = tiny_llama(layers=2, seed=5, vocab=rows)
    prompts = PROMPTS[:2]
    rounds = decode(draft, prompts, sampling, limit=14)
    audit(rounds, prompts, draft, sampling)
    assert all(t.token_id < 258 for r in rounds for t in r.tokens)
    assert any(t >= 200 for text in texts(rounds, 2) for t in text)
    if sampling.greedy:
        assert texts(rounds, 2) == texts(plain(prompts), 2)


def test_a_missing_row_is_padded_with_probability_zero_and_an_extra_one_cut():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.softmax(align_logits(logits, 5), -1)[0, 3:].tolist() == [0, 0]
    assert align_logits(logits, 2).tolist() == [[1, 2]]
    assert align_logits(logits, 3).tolist() == logits.tolist()


# ---- devices


def test_without_a_draft_every_tensor_stays_on_the_targets_device():
    """On a GPU mixing devices is an error even where there is nothing to compare."""
    from engine.decode.speculative import propose

    draws = torch.zeros(1, 0, dtype=torch.float64)
    for tensor in propose(None, [object()], GREEDY, draws, 7, torch.device("meta")):
        assert tensor.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, 20, 0.8)], ids=str)
def test_on_a_gpu_all_of_it_runs(sampling):
    target, draft = tiny_llama().cuda(), noisy_copy().cuda()
    settings = DecodeSettings(sampling, FixedLength(3), 12, frozenset())
    rounds = list(speculative_decode(target, draft, PROMPTS, settings))
    alone = list(plain_decode(target, PROMPTS, settings))
    assert [len(t) for t in texts(rounds)] == [len(t) for t in texts(alone)] == [12] * 4
    if sampling.greedy:
        assert texts(rounds) == texts(alone)
