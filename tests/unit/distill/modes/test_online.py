"""Online mode: what is learnt from, at which position, and that a stream broken off ends like an unbroken one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.capture.batches import Batch
from engine.capture.generate import answer_prompts
from engine.capture.signal import SignalFormat, signal_format
from engine.capture.store import Capture
from engine.config.schema import CaptureSpec, DraftSpec, OnlineSpec, Recipe, TrainSpec
from engine.decode.events import Fate, Round
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from engine.distill.modes import Material, batch_source, online
from engine.distill.modes.online import DecodedStream, OnlineBatches, Query, ReplayedStream, replay_fates
from engine.distill.stream import StreamLog, streamed
from engine.distill.trainer import Outcome, Trainer
from engine.errors import DraftbenchError
from engine.fileio import read_lines, sha256_file
from engine.measure.acceptance import PromptAcceptance
from engine.models.draft import Draft, initialise_draft
from engine.models.load import LoadedModel
from engine.progress import Progress
from tests.conftest import tiny_llama
from tests.tiny_pair import captured, into, noisy_copy, questions
from tests.unit.distill.trainings import PowerCut

pytestmark = pytest.mark.slow

LIMIT = 12
CAPTURE = CaptureSpec(max_new_tokens=LIMIT)


def settings(stream: str = "decode", **changes: Any) -> TrainSpec:
    own = {key: changes.pop(key) for key in list(changes) if key in OnlineSpec.model_fields}
    return TrainSpec(
        **{
            "mode": "online",
            "online": {"stream": stream, "update_interval": 2, **own},
            "learning_rate": 0.01,
            "precision": "float32",
            "schedule": "constant",
            "eval_every": 2,
            "checkpoint_every": 2,
            **changes,
        }
    )


def draft_of(target: LoadedModel) -> Draft:
    """Half right: some of its tokens are refused and some are not."""
    draft = initialise_draft(target, DraftSpec(layers=4), seed=0)
    with torch.no_grad():
        for mine, theirs in zip(draft.model.parameters(), noisy_copy().parameters(), strict=True):
            if mine.requires_grad:
                mine.copy_(theirs)
    return draft


def material(
    folder: Path, target: LoadedModel, capture: Capture, spec: TrainSpec, draft: Draft | None = None, **more: Any
) -> Material:
    replay = spec.online.stream == "replay"
    by_id = {answer.prompt_id: answer for answer in capture.answers}
    queries = [Query(prompt.id, by_id[prompt.id].prompt_ids) for prompt in questions()]
    given: dict[str, Any] = {
        "draft": draft or draft_of(target),
        "target": target,
        "queries": queries,
        "signal": capture.format,
        "training": capture if replay else None,
        "settings": spec,
        "capture": CAPTURE,
        "folder": folder,
        "emit": lambda event: None,
    }
    return Material(**{**given, **more})


def trainer_in(folder: Path, target: LoadedModel, capture: Capture, spec: TrainSpec, **more: Any) -> Trainer:
    emit = more.pop("emit", lambda event: None)
    made = material(folder, target, capture, spec, more.pop("draft", None), emit=emit)
    return Trainer(made.draft, batch_source(made), spec, folder, evaluate=score, emit=emit, **more)


def score(model: Any) -> dict[float, float]:
    """Stands in for the measured acceptance: some number between 0 and 1 that follows the weights."""
    total = sum(float(p.detach().double().abs().sum()) for p in model.parameters() if p.requires_grad)
    return {0.0: math.sin(total) ** 2}


def rounds_of(target: LoadedModel, draft: Any, queries: Sequence[Query], **more: Any) -> list[list[Round]]:
    found: list[list[Round]] = [[] for _ in queries]
    for item in speculative_decode(
        target.model,
        draft,
        [q.prompt_ids for q in queries],
        DecodeSettings(Sampling(1.0), FixedLength(3), LIMIT, target.stop_ids),
        names=[q.prompt_id for q in queries],
        **more,
    ):
        found[item.row].append(item)
    return found


# ---- what enters the buffer -----------------------------------------------------------------


def test_a_bonus_token_never_enters_the_buffer(tmp_path: Path, target: LoadedModel, capture: Capture):
    spec = settings(positions="all", update_interval=6)
    made = material(tmp_path, target, capture, spec)
    rounds = rounds_of(target, made.draft.model, made.queries)
    (batch, *rest) = batch_source(made).micro_batches(0)
    assert not rest
    assert any(r.tokens[-1].fate is Fate.BONUS for row in rounds for r in row)
    place = {name: i for i, name in enumerate(batch.names)}
    for query, row in zip(made.queries, rounds, strict=True):
        emitted = [t for r in row for t in r.tokens if t.fate in (Fate.ACCEPTED, Fate.CORRECTED, Fate.BONUS)]
        learnt = batch.responds[place[query.prompt_id]].nonzero().squeeze(-1) - (len(query.prompt_ids) - 1)
        assert {emitted[i].fate for i in learnt.tolist()} <= {Fate.ACCEPTED, Fate.CORRECTED}
        assert len(learnt) == sum(t.fate is not Fate.BONUS for t in emitted)


@pytest.mark.parametrize("stream", ["decode", "replay"])
def test_only_refused_positions_are_learnt_from(tmp_path: Path, target: LoadedModel, capture: Capture, stream: str):
    made = batch_source(material(tmp_path, target, capture, settings(stream, update_interval=6)))
    batches = made.micro_batches(0)
    lines = list(read_lines(tmp_path / "stream" / "answers.jsonl"))
    assert [line["query"] for line in lines] == list(range(6))
    wrong = {line["prompt_id"]: [line["token_ids"][i] for i in line["wrong"]] for line in lines}
    assert 0 < sum(map(len, wrong.values())) < sum(len(line["judged"]) for line in lines)
    for batch in batches:
        split = torch.split(batch.token_ids, batch.lengths)
        assert [part.tolist() for part in split] == [wrong[name] for name in batch.names]


def test_a_decoded_query_keeps_the_targets_own_state_at_each_token(
    tmp_path: Path, target: LoadedModel, capture: Capture
):
    made = batch_source(material(tmp_path, target, capture, settings(positions="all", update_interval=6)))
    made.micro_batches(0)
    assert isinstance(made, OnlineBatches)
    assert made.log is not None
    for number, entry in enumerate(made.log.entries):
        ids = torch.tensor([[*entry.prompt_ids, *entry.token_ids]])
        with torch.no_grad():
            states = target.model.base_model(input_ids=ids).last_hidden_state[0, len(entry.prompt_ids) - 1 : -1]
        kept = made.log.raw_signal(number).view(torch.bfloat16).float()
        torch.testing.assert_close(kept, states, rtol=2e-2, atol=2e-2)


# ---- the gradient ---------------------------------------------------------------------------


def gradients(trainer: Trainer, batches: Sequence[Batch]) -> list[torch.Tensor]:
    trainer.optimiser.zero_grad(set_to_none=True)
    positions = sum(batch.tokens for batch in batches)
    for batch in batches:
        trainer.backward(batch, 0, positions)
    return [p.grad.clone() for p in trainer.trained if p.grad is not None]


def plain_gradients(
    trainer: Trainer, target: LoadedModel, places: dict[str, list[int]], texts: dict[str, list[int]], shift: int = 0
) -> list[torch.Tensor]:
    """Forward KL by hand at some places of some texts: logits at index j - 1 judge token j."""
    answers = trainer.source.capture_answers  # type: ignore[attr-defined]
    by_id = {answer.prompt_id: answer.prompt_ids for answer in answers}
    trainer.optimiser.zero_grad(set_to_none=True)
    total, count = torch.zeros(()), 0
    for name, wrong in places.items():
        ids = torch.tensor([[*by_id[name], *texts[name]]])
        at = torch.tensor([len(by_id[name]) + j - 1 + shift for j in wrong], dtype=torch.long)
        at = at.clamp_max(ids.shape[1] - 1)
        with torch.no_grad():
            p = torch.log_softmax(target.model(input_ids=ids).logits[0, at].float(), -1)
        q = torch.log_softmax(trainer.draft.model(input_ids=ids).logits[0, at].float(), -1)
        total = total + (p.exp() * (p - q)).sum()
        count += len(wrong)
    (total / count).backward()
    return [p.grad.clone() for p in trainer.trained if p.grad is not None]


@pytest.mark.parametrize("stream", ["decode", "replay"])
def test_the_loss_sits_on_the_position_that_erred(tmp_path: Path, target: LoadedModel, capture: Capture, stream: str):
    """The gradient of an online batch is the offline one at the refused positions, and at no position beside them."""
    trainer = trainer_in(tmp_path, target, capture, settings(stream, update_interval=6))
    mine = gradients(trainer, trainer.source.micro_batches(0))
    lines = list(read_lines(tmp_path / "stream" / "answers.jsonl"))
    trainer.source.capture_answers = capture.answers  # type: ignore[attr-defined]
    places = {line["prompt_id"]: line["wrong"] for line in lines}
    texts = {line["prompt_id"]: line["token_ids"] for line in lines}
    size = math.sqrt(sum(float(g.square().sum()) for g in mine))

    def apart(theirs: list[torch.Tensor]) -> float:
        return math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(mine, theirs, strict=True))) / size

    assert apart(plain_gradients(trainer, target, places, texts)) < 0.02  # the signal is rounded to bfloat16
    for shift in (-1, 1):
        assert apart(plain_gradients(trainer, target, places, texts, shift)) > 0.2


def test_at_all_positions_of_whole_answers_the_gradient_is_that_of_offline_training(
    tmp_path: Path, target: LoadedModel, capture: Capture
):
    """With gamma as long as the answers and a draft that is never refused there is no bonus but the last token."""
    spec = settings("replay", update_interval=6, positions="all")
    trainer = trainer_in(tmp_path, target, capture, spec)
    batches = trainer.source.micro_batches(0)
    offline = TrainSpec(batch_size=6, precision="float32")
    source = batch_source(replace(material(tmp_path, target, capture, spec), settings=offline))
    judged = {line["prompt_id"]: line["judged"] for line in read_lines(tmp_path / "stream" / "answers.jsonl")}
    whole = source.micro_batches(0)
    chosen = [
        torch.cat(
            [
                torch.isin(torch.arange(n), torch.tensor(judged[name]))
                for name, n in zip(b.names, b.lengths, strict=True)
            ]
        )
        for b in whole
    ]
    same = [batch.only(mask) for batch, mask in zip(whole, chosen, strict=True)]
    for mine, theirs in zip(gradients(trainer, batches), gradients(trainer, same), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


# ---- replaying a capture ---------------------------------------------------------------------


def text(p: list[float], q: list[float]) -> PromptAcceptance:
    count = len(p)
    nothing = torch.zeros(count)
    return PromptAcceptance(
        "x",
        "-",
        list(range(count)),
        overlap=nothing,
        agree=nothing.bool(),
        target_prob=torch.tensor(p),
        draft_prob=torch.tensor(q),
        argmax_prob=nothing,
        hit=nothing.bool(),
    )


def test_fates_of_a_draft_that_is_always_right_are_judged_but_for_every_bonus():
    fates = replay_fates(text([0.5] * 10, [0.5] * 10), torch.full((10,), 0.99), gamma=3, limit=100)
    assert (fates.wrong, fates.judged) == ([], [0, 1, 2, 4, 5, 6, 8, 9])
    assert (fates.rounds, fates.drafted) == (3, 9)


def test_fates_of_a_draft_that_is_always_wrong_end_every_round_at_once():
    fates = replay_fates(text([0.5] * 4, [0.0] * 4), torch.zeros(4), gamma=3, limit=100)
    assert (fates.wrong, fates.judged, fates.rounds) == ([0, 1, 2, 3], [0, 1, 2, 3], 4)


def test_a_fate_is_drawn_with_the_ratio_of_both_probabilities():
    p, q, draws = [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 1.0, 0.0], torch.tensor([0.49, 0.51, 0.9, 0.0])
    assert replay_fates(text(p, q), draws, gamma=4, limit=100).wrong == [1, 3]


def test_near_its_limit_a_text_is_proposed_less():
    """The target adds one token to every round itself, so the last one is never proposed."""
    fates = replay_fates(text([0.5] * 4, [0.5] * 4), torch.zeros(4), gamma=8, limit=4)
    assert (fates.judged, fates.drafted, fates.rounds) == ([0, 1, 2], 3, 1)


@pytest.mark.slow
def test_a_replayed_stream_has_the_distribution_of_a_decoded_one(target: LoadedModel):
    """1,500 texts of each kind: fates at the first three places, rounds and judged tokens agree within chance."""
    model, draft, rows = tiny_llama(vocab=23, seed=3), tiny_llama(vocab=23, seed=4), 1500
    prompt, names = [3, 5, 7], [str(i) for i in range(1500)]
    options: dict[str, Any] = {"max_new_tokens": 5, "stop_ids": frozenset({2}), "seed": 11}
    sampling, gamma = Sampling(0.9, top_k=12), 2
    rounds: list[list[Round]] = [[] for _ in range(rows)]
    settings = DecodeSettings(sampling, FixedLength(gamma), **options)
    for item in speculative_decode(model, draft, [prompt] * rows, settings, names=names):
        rounds[item.row].append(item)
    decoded = [streamed(i, 0, names[i], prompt, rounds[i]) for i in range(rows)]
    replayed = replayed_texts(model, draft, prompt, names, sampling, gamma, **options)

    def figures(entries: Sequence[Any]) -> torch.Tensor:
        """[text, figure]"""
        return torch.tensor(
            [
                [float(i in e.wrong) for i in range(3)]
                + [float(i in e.judged) for i in range(5)]
                + [float(e.rounds), float(e.drafted), float(len(e.token_ids)), e.expected]
                for e in entries
            ]
        )

    mine, theirs = figures(replayed), figures(decoded)
    deviation = ((mine.var(0) + theirs.var(0)) / rows).sqrt().clamp_min(1e-9)
    assert 0.05 < float(mine[:, 0].mean()) < 0.95
    assert float(((mine.mean(0) - theirs.mean(0)) / deviation).abs().max()) < 4  # twelve figures: 1 in 1,300 by chance


def replayed_texts(
    model: Any, draft: Any, prompt: list[int], names: list[str], sampling: Sampling, gamma: int, **options: Any
) -> list[Any]:
    """Plain answers of the model as a capture in memory, and the stream replayed from it."""
    signal = signal_format("exact", model, 0)
    answers = answer_prompts(model, [prompt] * len(names), names, sampling, batch_size=512, signal=signal, **options)
    capture = InMemory(signal, {names[a.index]: a for a in answers}, prompt)
    head = online.Head.of(model)
    stream = ReplayedStream(capture, head, sampling, gamma=gamma, max_new_tokens=5, seed=3)  # type: ignore[arg-type]
    return [entry for entry, _ in stream.answer(draft, [Query(name, prompt) for name in names], 0, 0)]


class InMemory:
    """As much of a capture as a replayed stream reads."""

    greedy = False

    def __init__(self, signal: SignalFormat, answers: dict[str, Any], prompt: list[int]) -> None:
        from engine.capture.answered import AnsweredPrompt

        self.format, self.raw = signal, {name: a.signal for name, a in answers.items()}
        self.answers = [AnsweredPrompt(n, "-", prompt, a.token_ids, a.finish_reason, 0) for n, a in answers.items()]

    def raw_signal(self, answer: Any) -> torch.Tensor:
        found: torch.Tensor = self.raw[answer.prompt_id]
        return found

    def places(self, answer: Any) -> torch.Tensor:
        return torch.zeros(len(answer.token_ids), dtype=torch.long)


def test_a_capture_without_probabilities_cannot_be_replayed(tmp_path: Path, target: LoadedModel):
    text_only = captured(tmp_path, target, signal="none", max_new_tokens=LIMIT)
    with pytest.raises(DraftbenchError, match="cannot be replayed from a capture with signal 'none'"):
        batch_source(material(tmp_path, target, text_only, settings("replay", loss="sft")))


# ---- the stream -----------------------------------------------------------------------------


def test_the_queries_come_once_and_in_order(tmp_path: Path, target: LoadedModel, capture: Capture):
    events: list[dict[str, Any]] = []
    outcome = trainer_in(tmp_path, target, capture, settings(), emit=into(events)).run()
    stream = [e for e in events if e["kind"] == "stream"]
    assert [e["prompt_id"] for e in stream] == [prompt.id for prompt in questions()]
    assert [e["query"] for e in stream] == [1, 2, 3, 4, 5, 6]
    assert [e["step"] for e in stream] == [0, 0, 1, 1, 2, 2]
    assert all(e["accepted"] <= e["examined"] <= e["drafted"] for e in stream)
    assert outcome.steps == outcome.steps_done == OnlineSpec(update_interval=2).steps(6) == 3
    assert outcome.tokens_seen == sum(e["emitted"] for e in stream)
    assert outcome.positions_trained == sum(e["examined"] - e["accepted"] for e in stream)


def test_shuffling_follows_the_seed():
    queries = [Query(str(i), [i]) for i in range(20)]
    mixed = [online.in_order(queries, OnlineSpec(order="shuffled"), seed) for seed in (0, 0, 1)]
    assert mixed[0] == mixed[1] != mixed[2]
    assert sorted(mixed[0], key=lambda q: q.prompt_ids) == queries == online.in_order(queries, OnlineSpec(), 5)


@pytest.mark.parametrize(("every", "follows"), [(0, [0, 0, 0]), (1, [0, 1, 2]), (2, [0, 0, 2])])
def test_new_weights_are_swapped_in_between_updates(
    tmp_path: Path, target: LoadedModel, capture: Capture, every: int, follows: list[int]
):
    """Which update's weights decode: the ones in training at the last swap."""
    trainer = trainer_in(tmp_path, target, capture, settings(swap_every=every))
    source = trainer.source
    assert isinstance(source, OnlineBatches)
    learning, decoding, real = [], [], source.stream.answer

    def watched(model: Any, *arguments: Any) -> Any:
        learning.append(weights(trainer.draft.model))
        decoding.append(weights(model))
        return real(model, *arguments)

    source.stream.answer = watched  # type: ignore[method-assign]
    trainer.run()
    assert [next(i for i, w in enumerate(learning) if torch.equal(w, d)) for d in decoding] == follows
    assert not torch.equal(learning[0], learning[1])


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def test_a_stream_without_refusal_changes_nothing_and_says_so(tmp_path: Path, target: LoadedModel, capture: Capture):
    draft = initialise_draft(target, DraftSpec(layers=4), seed=0)  # all layers: the target itself
    before = weights(draft.model)
    events: list[dict[str, Any]] = []
    outcome = trainer_in(tmp_path, target, capture, settings(), draft=draft, emit=into(events)).run()
    assert [e["kind"] for e in events if e["kind"] in ("train", "skipped")] == ["skipped"] * 3
    assert (outcome.steps_done, outcome.steps_skipped, outcome.positions_trained) == (3, 3, 0)
    assert torch.equal(weights(draft.model), before)


def test_a_replay_share_brings_back_earlier_answers(tmp_path: Path, target: LoadedModel, capture: Capture):
    made = batch_source(material(tmp_path, target, capture, settings(replay_share=0.5)))
    names = [{name for b in made.micro_batches(step) for name in b.names} for step in range(3)]
    assert names[0] <= {"q0", "q1"}
    assert {"q2", "q3"} & names[1]
    assert {"q0", "q1"} & names[1]
    assert len(names[2]) <= 4
    assert {"q0", "q1", "q2", "q3"} & names[2]


def test_a_small_replay_share_is_kept_over_several_steps(tmp_path: Path, target: LoadedModel, capture: Capture):
    made = batch_source(material(tmp_path, target, capture, settings(update_interval=1, replay_share=0.25)))
    replayed = [len(made._replayed(step, 1, step)) for step in range(60)]  # type: ignore[attr-defined]
    assert set(replayed) == {0, 1}
    assert sum(replayed) == 20  # of 80 answers in all


# ---- broken off -----------------------------------------------------------------------------


HARD = {"replay_share": 0.5, "steps_per_update": 2, "swap_every": 2}


def fingerprint(folder: Path, outcome: Outcome) -> dict[str, Any]:
    numbers = {key: value for key, value in asdict(outcome).items() if key != "seconds"}
    drafts = {w: sha256_file(folder / "draft" / w / "draft.safetensors") for w in ("best", "last")}
    return {"stream": list(read_lines(folder / "stream" / "answers.jsonl")), **drafts, **numbers}


@pytest.mark.parametrize("cut", range(1, 7))
@pytest.mark.parametrize(("stream", "how"), [("decode", HARD), ("decode", {}), ("replay", HARD)], ids=str)
def test_a_stream_broken_off_after_any_step_ends_the_same(
    tmp_path: Path, target: LoadedModel, capture: Capture, stream: str, how: dict[str, Any], cut: int
):
    spec = settings(stream, checkpoint_every=3 if how else 2, **how)
    whole = tmp_path / "whole"
    unbroken = fingerprint(whole, trainer_in(whole, target, capture, spec).run())

    def listen(told: dict[str, Any]) -> None:
        if told["done"] == cut:
            raise PowerCut

    folder = tmp_path / "cut"
    if cut <= unbroken["steps"]:
        with pytest.raises(PowerCut):
            trainer_in(folder, target, capture, spec, progress=Progress(quiet=True, listen=listen)).run()
    assert fingerprint(folder, trainer_in(folder, target, capture, spec).run()) == unbroken


def test_a_torn_line_and_torn_bytes_of_the_log_are_cut_off(tmp_path: Path, target: LoadedModel, capture: Capture):
    spec = settings(update_interval=1)
    source = batch_source(material(tmp_path, target, capture, spec))
    for step in range(4):
        source.micro_batches(step)
    lines = (tmp_path / "stream" / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "stream" / "answers.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    signal = tmp_path / "stream" / "signal.bin"
    signal.write_bytes(signal.read_bytes()[:-5])
    log = StreamLog(tmp_path / "stream", capture.format.bytes_per_token)
    log.cut(4)
    assert [entry.query for entry in log.entries] == [0, 1, 2]
    assert signal.stat().st_size == capture.format.bytes_per_token * sum(len(e.token_ids) for e in log.entries)
    log.cut(2)
    assert [entry.query for entry in log.entries] == [0, 1]


def test_a_stream_that_lost_what_was_learnt_from_it_is_an_error(tmp_path: Path, target: LoadedModel, capture: Capture):
    """Or no query would be streamed again, and every later step would be skipped in silence."""
    spec = settings()
    source = batch_source(material(tmp_path, target, capture, spec))
    for step in range(2):
        source.micro_batches(step)
    lines = (tmp_path / "stream" / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "stream" / "answers.jsonl").write_bytes(b"".join(lines[:3]))
    resumed = batch_source(material(tmp_path, target, capture, spec))
    with pytest.raises(DraftbenchError, match="3 whole queries; this run has passed 4"):
        resumed.micro_batches(2)


def test_no_more_queries_are_decoded_side_by_side_than_a_capture_answers(
    tmp_path: Path, target: LoadedModel, capture: Capture
):
    most = CAPTURE.model_copy(update={"batch_size": 4})
    made = replace(material(tmp_path, target, capture, settings(update_interval=6)), capture=most)
    source = batch_source(made)
    assert isinstance(source, OnlineBatches)
    real, sizes = source.stream.answer, []

    def watched(model: Any, queries: Sequence[Query], first: int, update: int) -> Any:
        sizes.append((first, len(queries)))
        return real(model, queries, first, update)

    source.stream.answer = watched  # type: ignore[method-assign]
    source.micro_batches(0)
    assert sizes == [(0, 4), (4, 2)]


# ---- recipes --------------------------------------------------------------------------------


def recipe(**changes: Any) -> dict[str, Any]:
    return {"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}, **changes}


def test_a_decoded_stream_cannot_choose_a_vocabulary_from_answers_it_has_not_seen():
    with pytest.raises(ValueError, match=r"set train\.online\.stream to replay"):
        Recipe.model_validate(recipe(train={"mode": "online"}, draft={"vocabulary": 64}))
    Recipe.model_validate(recipe(train={"mode": "online", "online": {"stream": "replay"}}, draft={"vocabulary": 64}))


def test_decoding_needs_no_capture_of_the_stream(tmp_path: Path, target: LoadedModel, capture: Capture):
    made = batch_source(material(tmp_path, target, capture, settings()))
    assert isinstance(made, OnlineBatches)
    assert isinstance(made.stream, DecodedStream)
