"""Acceptance measured against a server's own text: what the full distributions give, or a plain refusal."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.capture.store import Capture
from engine.chat.prompt import Prompt
from engine.config.decisive import decisive
from engine.config.schema import CaptureSpec, MeasureSpec, ServerSpec
from engine.decode.sampling import Sampling
from engine.errors import DraftbenchError
from engine.fileio import read_json
from engine.index.connection import reading
from engine.index.queries import get_run, overview
from engine.measure.acceptance import PromptAcceptance, exact_acceptance
from engine.measure.compare import differing_conditions
from engine.measure.definitions import SERVED_TEXT
from engine.measure.suite import Measured
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.paths import home
from engine.progress import Progress
from engine.runs.folder import RunFolder
from engine.runs.recipes import read_recipe
from engine.served.acceptance import measure_served, served_acceptance
from engine.served.capture import check_logprobs, make_served, plan_served
from engine.served.logprobs import TokenBytes, certain_ids, decode_logprobs
from engine.served.replies import Reply, ReplyToken
from engine.served.request_rate import RateLimiter
from tests.chat_server import MODEL, Said, Server
from tests.conftest import byte_tokenizer, tiny_llama
from tests.tiny_pair import as_draft, captured, noisy_copy
from tests.unit.conftest import Draftbench

pytestmark = pytest.mark.slow

TOKENS = 24
PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(60)]
Spoil = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="module")
def written(target: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Capture]:
    """What the served model writes, with its full distribution, which the server does not tell."""
    folder = tmp_path_factory.mktemp("written")
    return {t: captured(folder, target, PROMPTS, temperature=t, max_new_tokens=TOKENS) for t in (0.0, 1.0)}


def full(target: LoadedModel, draft: Any, capture: Capture) -> list[PromptAcceptance]:
    sampling = Sampling(capture_temperature(capture))
    return exact_acceptance(draft, Head.of(target.model), capture, sampling)


def capture_temperature(capture: Capture) -> float:
    return float(read_json(capture.folder / "spec.json")["temperature"])


@cache
def spelling() -> TokenBytes:
    return TokenBytes(byte_tokenizer())


def spell(token_id: int) -> bytes:
    return spelling()._bytes[token_id]


def likeliest(target: LoadedModel, capture: Capture) -> dict[str, list[float]]:
    """Log-probability of the likeliest token at each position, by prompt."""
    outcome = {}
    for answer in capture.answers:
        signal = capture.format.decode(capture.raw_signal(answer), Head.of(target.model))
        logits = Head.of(target.model).logits(signal.hidden).float()  # type: ignore[attr-defined]
        outcome[answer.prompt_id] = torch.log_softmax(logits, -1).max(-1).values.tolist()
    return outcome


def serve(
    server: Server, target: LoadedModel, written: dict[float, Capture], spoil: Spoil = lambda content: None
) -> None:
    """Let the server answer with these texts as bytes, and report log-probabilities at temperature 1."""
    texts = {t: {a.prompt_id: a for a in capture.answers} for t, capture in written.items()}
    best = {t: likeliest(target, capture) for t, capture in written.items()}
    chances = {
        t: {r.prompt_id: r.target_prob for r in exact_acceptance(target.model, Head.of(target.model), c, Sampling(1.0))}
        for t, c in written.items()
    }

    def answer(body: dict[str, Any], number: int) -> Said:
        at, name = float(body["temperature"]), "p" + body["messages"][-1]["content"].removeprefix("question ")
        stored = texts[at][name]
        content = [
            {
                "token": spell(i).decode("utf-8", "replace"),
                "bytes": list(spell(i)),
                "logprob": math.log(p),
                "top_logprobs": [{"token": "?", "logprob": max(b, math.log(p))}],
            }
            for i, p, b in zip(stored.token_ids, chances[at][name].tolist(), best[at][name], strict=True)
        ]
        text = b"".join(bytes(each["bytes"]) for each in content if each["token"] != "<|im_end|>")
        spoil(content)
        message = {"role": "assistant", "content": text.decode("utf-8", "replace")}
        choice = {"message": message, "finish_reason": stored.finish_reason, "logprobs": {"content": content}}
        return Said(body={"choices": [choice if body.get("logprobs") else {**choice, "logprobs": None}]})

    server.script = answer


def fetched(folder: Path, server: Server, target: LoadedModel, temperature: float) -> Capture:
    spec = ServerSpec(base_url=server.base_url, model=MODEL, attempts=1)
    asked = CaptureSpec(temperature=temperature, max_new_tokens=TOKENS, signal="none", server=spec)
    plan = plan_served(folder / "captures", target, PROMPTS, asked, with_logprobs=True)
    return make_served(plan, spec, target, limiter=RateLimiter(rng=random.Random(0)))


def measured(
    server: Server, target: LoadedModel, captures: dict[float, Capture], draft: Any, **changes: Any
) -> Measured:
    drafts = {"initial": as_draft(tiny_llama(layers=2, seed=5)), "trained": as_draft(draft)}
    spec = MeasureSpec(**{"against": "server", "max_new_tokens": TOKENS, "bootstrap_samples": 200, **changes})
    server_spec = ServerSpec(base_url=server.base_url, model=MODEL)
    return measure_served(target, drafts, captures, [p.id for p in PROMPTS], spec, server_spec, heldout_hash="h")


def pooled(results: list[PromptAcceptance]) -> torch.Tensor:
    return torch.cat([r.overlap for r in results]).double()


def test_at_temperature_1_it_is_an_unbiased_estimate_of_exact_acceptance(
    tmp_path: Path, server: Server, target: LoadedModel, written: dict[float, Capture]
):
    serve(server, target, written)
    draft, capture = noisy_copy(), fetched(tmp_path, server, target, 1.0)
    estimate = pooled(served_acceptance(draft, capture, 1.0, target.vocab_rows, capture.answers))
    exact = pooled(full(target, draft, written[1.0]))
    assert len(estimate) == len(exact) > 1000
    assert 0.2 < exact.mean() < 0.9
    off = estimate - exact  # given what came before, each is 0 in expectation: a martingale
    assert off.std() > 0.1
    assert abs(off.sum() / (off.square().sum().sqrt())) < 4
    outcome = {
        (m["draft"], m["temperature"], m["metric"]): m
        for m in measured(server, target, {1.0: capture}, draft).summary.document()["metrics"]
    }
    rate = outcome["trained", 1.0, "exact"]
    assert rate["value"] == pytest.approx(float(estimate.mean()), abs=1e-6)
    width = rate["high"] - rate["low"]  # 95%: twice as far from the middle is all but impossible
    assert rate["value"] - width < float(exact.mean()) < rate["value"] + width
    assert ("trained", 1.0, "greedy_agreement") not in outcome  # of a sampled text it is not known


def test_where_the_drawn_token_is_the_drafts_likeliest_estimates_argmax_acceptance(
    tmp_path: Path, server: Server, target: LoadedModel, written: dict[float, Capture]
):
    serve(server, target, written)
    draft, capture = noisy_copy(), fetched(tmp_path, server, target, 1.0)
    served = served_acceptance(draft, capture, 1.0, target.vocab_rows, capture.answers)
    estimate = torch.cat([r.argmax_prob for r in served]).double()
    expected = torch.cat([r.argmax_prob for r in full(target, draft, written[1.0])]).double()
    assert set(estimate.tolist()) == {0.0, 1.0}
    off = estimate - expected
    assert 0 < expected.mean() < 0.9
    assert abs(off.sum() / (off.square().sum().sqrt())) < 4


def test_at_temperature_0_it_is_exact_and_greedy_agreement(
    tmp_path: Path, server: Server, target: LoadedModel, written: dict[float, Capture]
):
    serve(server, target, written)
    draft, capture = noisy_copy(), fetched(tmp_path, server, target, 0.0)
    estimate = served_acceptance(draft, capture, 0.0, target.vocab_rows, capture.answers)
    exact = full(target, draft, written[0.0])
    for one, other in zip(estimate, exact, strict=True):
        assert one.agree is not None
        assert other.agree is not None
        assert one.agree.tolist() == one.overlap.bool().tolist()
        wrote_its_best = other.target_prob == 1  # but for ties: the signal is kept in bfloat16
        assert wrote_its_best.double().mean() > 0.8
        assert one.overlap[wrote_its_best].tolist() == other.overlap[wrote_its_best].tolist()
        assert one.agree[wrote_its_best].tolist() == other.agree[wrote_its_best].tolist()
    rates = {
        m["metric"]: m["value"] for m in measured(server, target, {0.0: capture}, draft).summary.document()["metrics"]
    }
    assert rates["exact"] == rates["argmax"] == rates["greedy_agreement"]


def test_a_draft_of_the_served_model_itself_is_always_accepted(
    tmp_path: Path, server: Server, target: LoadedModel, written: dict[float, Capture]
):
    serve(server, target, written)
    for temperature in (0.0, 1.0):
        capture = fetched(tmp_path, server, target, temperature)
        outcome = pooled(served_acceptance(target.model, capture, temperature, target.vocab_rows, capture.answers))
        assert outcome.min() > 0.97  # what the server tells here went through bfloat16
        assert outcome.mean() > 0.998


def test_the_change_is_paired_and_gamma_and_sampled_rates_are_absent(
    tmp_path: Path, server: Server, target: LoadedModel, written: dict[float, Capture]
):
    serve(server, target, written)
    outcome = measured(server, target, {t: fetched(tmp_path, server, target, t) for t in (0.0, 1.0)}, noisy_copy())
    assert set(outcome.tables) == {"positions", "prompts"}
    assert {m["metric"] for m in outcome.summary.document()["metrics"]} == {"exact", "argmax", "greedy_agreement"}
    assert not {"certificate", "speed", "by_slot", "stands_in_for"} & set(outcome.summary.document())
    assert "num_draft_tokens" not in outcome.summary.document()["conditions"]
    rates = {(m["draft"], m["temperature"], m["metric"]): m["value"] for m in outcome.summary.document()["metrics"]}
    for gain in outcome.summary.document()["improvement"]:
        at = gain["temperature"], gain["metric"]
        assert gain["value"] == pytest.approx(rates["trained", *at] - rates["initial", *at])
        assert gain["n_prompts"] == 60
    whole = outcome.tables["positions"].query("draft == 'trained' and temperature == 1")
    assert (whole.overlap - (whole.q / whole.p).clip(upper=1)).abs().max() < 1e-6
    assert whole.agree.isna().all()
    assert abs(outcome.summary.document()["served"]["positions"][1]["calibration"]["z"]) < 4


def test_tokens_that_are_not_certain_and_all_behind_them_are_left_out_and_counted(
    tmp_path: Path, server: Server, target: LoadedModel, written: dict[float, Capture]
):
    def spoil(content: list[dict[str, Any]]) -> None:
        if len(content) > 9:
            content[9] |= {"bytes": content[9]["bytes"] + [0xE2], "token": "two tokens in one"}

    serve(server, target, written, spoil)
    draft, capture = noisy_copy(), fetched(tmp_path, server, target, 1.0)
    outcome = served_acceptance(draft, capture, 1.0, target.vocab_rows, capture.answers)
    before = {r.prompt_id: r for r in full(target, draft, written[1.0])}
    for result in outcome:
        assert result.positions == list(range(len(result.token_ids)))
        assert len(result.token_ids) == min(9, len(before[result.prompt_id].token_ids))
        assert result.token_ids == before[result.prompt_id].token_ids[: len(result.token_ids)]
        q = before[result.prompt_id].draft_prob[: len(result.token_ids)]
        assert torch.allclose(result.draft_prob, q, atol=1e-5)
    row = measured(server, target, {1.0: capture}, draft).summary.document()["served"]["positions"][0]
    assert row["used"] == sum(len(r.token_ids) for r in outcome)
    assert row["left_out"] > 60


def test_a_token_without_its_log_probability_costs_only_its_own_place(
    tmp_path: Path, server: Server, target: LoadedModel, written: dict[float, Capture]
):
    serve(server, target, written, lambda content: content[2].update(logprob=-9999.0) if len(content) > 3 else None)
    draft, capture = noisy_copy(), fetched(tmp_path, server, target, 1.0)
    for result in served_acceptance(draft, capture, 1.0, target.vocab_rows, capture.answers):
        assert result.positions is not None
        if max(result.positions) > 3:
            assert result.positions[:3] == [0, 1, 3]


def test_text_that_was_not_drawn_from_what_is_reported_is_refused(
    tmp_path: Path, server: Server, target: LoadedModel, written: dict[float, Capture]
):
    cut = captured(tmp_path, target, PROMPTS, temperature=1.0, top_k=3, max_new_tokens=TOKENS)
    serve(server, target, {0.0: written[0.0], 1.0: cut})
    capture = fetched(tmp_path, server, target, 1.0)
    with pytest.raises(DraftbenchError, match="its likeliest token") as error:
        measured(server, target, {1.0: capture}, noisy_copy())
    assert "top_k" in error.value.why
    assert "temperatures=[0]" in error.value.fix


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_server_that_tells_nothing_of_its_tokens_is_refused_at_the_first_answer(
    tmp_path: Path, server: Server, target: LoadedModel, temperature: float
):
    with pytest.raises(DraftbenchError, match="sends no log-probabilities") as error:
        fetched(tmp_path, server, target, temperature)
    assert "measure.against: model" in error.value.fix
    assert len(server.requests) <= 4


def test_ids_alone_are_enough_at_temperature_0(tmp_path: Path, server: Server, target: LoadedModel):
    choice = {"message": {"content": "bc"}, "finish_reason": "stop", "token_ids": [67, 68, 1]}
    server.script = lambda body, number: Said(body={"choices": [choice]})
    capture = fetched(tmp_path, server, target, 0.0)
    assert decode_logprobs(capture.raw_signal(capture.answers[0]))[0].tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(DraftbenchError, match="sends no log-probabilities"):
        fetched(tmp_path, server, target, 1.0)


def test_ids_that_do_not_spell_the_text_are_not_certain(tmp_path: Path, server: Server, target: LoadedModel):
    choice = {"message": {"content": "Paris"}, "finish_reason": "stop"}
    server.script = lambda body, number: Said(
        body={"choices": [choice | {"token_ids": [67, 68, 1] if number else [*ids_spelling("Paris"), 1]}]}
    )
    first, *others = (capture := fetched(tmp_path, server, target, 0.0)).answers
    known, *unknown = (decode_logprobs(capture.raw_signal(answer))[0] for answer in (first, *others))
    assert known.tolist() == [0.0] * 6
    assert all(len(row) == 6 and row.isnan().all() for row in unknown)


def ids_spelling(text: str) -> list[int]:
    return list(byte_tokenizer()(text, add_special_tokens=False)["input_ids"])


def spelt_tokens(*spelt: bytes | None, ids: list[int | None] | None = None) -> list[ReplyToken]:
    named = ids or [None] * len(spelt)
    return [ReplyToken(-1.0, -0.5, i, each) for i, each in zip(named, spelt, strict=True)]


def ids_of(text: str, tokens: list[ReplyToken], **more: Any) -> list[int]:
    return certain_ids(Reply(text, "stop", tokens=tokens, **more), TokenBytes(byte_tokenizer()), 258)


def test_ids_are_taken_only_where_they_spell_what_the_server_says():
    a, b = (byte_tokenizer().convert_tokens_to_ids(x) for x in "ab")
    assert ids_of("ab", spelt_tokens(b"a", b"b")) == [a, b]
    assert ids_of("ab", spelt_tokens(b"a", b"b", b""), token_ids=[a, b, 1]) == [a, b, 1]
    assert ids_of("ab", spelt_tokens(b"a", b"b"), token_ids=[a, b, 1]) == [a, b]  # the end of turn has no entry
    assert ids_of("ab", spelt_tokens(b"a", b"b", ids=[a, a])) == [a]  # another tokenizer
    assert ids_of("ab", spelt_tokens(b"ab")) == []  # a token that is not ours
    assert ids_of("ab", spelt_tokens(b"a", b"b", ids=[a, 999])) == [a]
    assert ids_of("ab", spelt_tokens(None, None, ids=[a, b])) == [a, b]
    assert ids_of("ba", spelt_tokens(None, None, ids=[a, b])) == []
    assert ids_of("thinking", spelt_tokens(b"a", b"b")) == []  # something was left out of the tokens


def test_one_spelling_of_two_ids_is_not_certain():
    tokenizer = byte_tokenizer()
    token_bytes = TokenBytes(tokenizer)
    token_bytes._ids[b"a"].append(200)
    assert token_bytes.unique_id(b"a") is None
    assert certain_ids(Reply("a", "stop", tokens=spelt_tokens(b"a")), token_bytes, 258) == []


def test_every_id_of_a_byte_level_tokenizer_has_its_own_spelling():
    token_bytes = TokenBytes(byte_tokenizer())
    assert {token_bytes.unique_id(bytes([i])) for i in range(256)} == set(range(2, 258))
    assert token_bytes.unique_id(b"<|im_end|>") == 1


def test_pieces_of_a_sentencepiece_vocabulary_are_spelt_too():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocab = [("<unk>", 0.0), ("\u2581the", -1.0), ("<0x0A>", -2.0), ("\u00e9", -3.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, 0, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    token_bytes = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"))
    assert [token_bytes.unique_id(x) for x in (b" the", b"\n", "é".encode())] == [1, 2, 3]


def certain(body: dict[str, Any], number: int) -> Said:
    """Answers whose every letter was certain, so that any draft of them can be measured."""
    text = f"about {body['messages'][-1]['content'][:4]}"
    content = [
        {"token": x, "bytes": list(x.encode()), "logprob": 0.0, "top_logprobs": [{"token": x, "logprob": 0.0}]}
        for x in text
    ]
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return Said(body={"choices": [choice | ({"logprobs": {"content": content}} if body.get("logprobs") else {})]})


def settings_of(server: Server, *more: str) -> list[str]:
    own = {"base_url": server.base_url, "model": MODEL, "attempts": 1}
    values = ["capture.signal=none", "train.loss=sft", f"capture.server={json.dumps(own)}", "measure.against=server"]
    return [part for value in (*values, *more) for part in ("--set", value)]


def test_a_run_is_measured_shown_compared_and_exported_without_the_targets_weights(
    recipe: Path, server: Server, draftbench: Draftbench, tmp_path: Path
):
    server.script = certain
    done = draftbench("run", str(recipe), *settings_of(server))
    assert done.code == 0, done.err
    assert f"against the text of the served model {MODEL}" in " ".join(done.out.split())
    assert "no sampled rates, tau, speed or certificate" in " ".join(done.out.split())
    run = RunFolder.open(home(), "latest")
    assert {body["temperature"] for body in server.requests if body.get("logprobs")} == {0.0, 1.0}
    assert run.summary().document()["served"]["model"] == MODEL
    shown = draftbench("show", run.id)
    assert shown.code == 0, shown.err
    assert "served model" in shown.out
    assert "problem" not in shown.out
    with reading(home().index) as con:
        indexed = get_run(con, run.id)
        assert indexed.problems == []
        assert indexed.certificate is None
        assert overview(con).set_index("run_id").acceptance_rule[run.id] == SERVED_TEXT
    exported = draftbench("export", run.id, "--out", str(tmp_path / "out"))
    assert exported.code == 0, exported.err
    assert "served model" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    again = draftbench("measure", run.id, "--set", "measure.against=model", "--json")
    assert again.code == 0, again.err
    assert again.json()["stands_in_for"]["model"] == MODEL
    assert "served" not in run.summary()
    back = draftbench("measure", run.id, "--set", "measure.against=server", "--json")
    assert back.code == 0, back.err
    assert not (run.path / "measure" / "tokens.parquet").exists()


def test_it_is_never_compared_with_rates_of_full_distributions(
    tmp_path: Path, server: Server, target: LoadedModel, written: dict[float, Capture]
):
    serve(server, target, written)
    ours = measured(server, target, {0.0: fetched(tmp_path, server, target, 0.0)}, noisy_copy()).summary.conditions
    full_p = ours.model_copy(update={"acceptance_rule": "sampled", "served_by": None})
    assert {"acceptance_rule", "served_by"} <= set(differing_conditions(ours, full_p))
    assert not differing_conditions(ours, ours)


BAD = [
    ("measure.against=server",),
    ("measure.against=server", "capture.signal=none", "train.loss=sft", "SERVER", "measure.temperatures=[0.7]"),
    ("measure.against=server", "capture.signal=none", "train.loss=sft", "SERVER", "measure.top_p=0.9"),
    ("measure.against=server", "capture.signal=none", "train.loss=sft", "SERVER", "measure.top_k=9"),
]


@pytest.mark.parametrize("values", BAD)
def test_what_a_server_cannot_tell_is_refused_before_the_run(recipe: Path, values: tuple[str, ...]):
    own = 'capture.server={"base_url": "http://127.0.0.1:9/v1", "model": "m"}'
    with pytest.raises(DraftbenchError, match="server"):
        read_recipe(home(), str(recipe), [own if value == "SERVER" else value for value in values], skip_bad=False)


def test_recipes_of_before_are_the_same_recipes():
    plain = MeasureSpec().model_dump()
    older = {key: value for key, value in plain.items() if key != "against"}
    assert decisive({"measure": plain}) == decisive({"measure": older})
    served = {**plain, "against": "server"}
    assert decisive({"measure": served}) != decisive({"measure": older})


def test_a_server_that_tells_nothing_ends_a_run_before_its_training(
    recipe: Path, server: Server, draftbench: Draftbench
):
    failed = draftbench("run", str(recipe), *settings_of(server))
    assert failed.code == 2
    assert "sends no log-probabilities" in failed.err
    assert len(server.requests) <= 4
    assert not (RunFolder.open(home(), "latest").path / "training.json").exists()


def test_figures_of_another_tokenizer_end_a_run_before_its_training(
    recipe: Path, server: Server, draftbench: Draftbench
):
    def foreign(body: dict[str, Any], number: int) -> Said:
        output = certain(body, number).body
        for choice in output["choices"]:
            for token in choice.get("logprobs", {}).get("content", []):
                token |= {"token": "?!", "bytes": [63, 33]}
        return Said(body=output)

    server.script = foreign
    failed = draftbench("run", str(recipe), *settings_of(server))
    assert failed.code == 2
    assert "first answers" in failed.err
    assert {body["logprobs"] for body in server.requests} == {True}


def test_figures_that_cannot_be_held_against_the_text_are_said_to_be_so(
    tmp_path: Path, server: Server, target: LoadedModel, written: dict[float, Capture], monkeypatch: pytest.MonkeyPatch
):
    serve(server, target, written, lambda content: [each.pop("top_logprobs") for each in content])
    notes: list[str] = []
    progress = Progress(quiet=True)
    monkeypatch.setattr(progress, "note", notes.append)
    drafts = {name: as_draft(noisy_copy()) for name in ("initial", "trained")}
    captures = {t: fetched(tmp_path, server, target, t) for t in (0.0, 1.0)}
    spec = MeasureSpec(against="server", max_new_tokens=TOKENS, bootstrap_samples=200)
    server_spec = ServerSpec(base_url=server.base_url, model=MODEL)
    outcome = measure_served(
        target, drafts, captures, [p.id for p in PROMPTS], spec, server_spec, heldout_hash="h", progress=progress
    )
    assert [at["calibration"] for at in outcome.summary.document()["served"]["positions"]] == [None, None]
    assert len([note for note in notes if "top_logprobs" in note]) == 1


def test_the_proof_is_kept_and_not_asked_for_twice(tmp_path: Path, server: Server, target: LoadedModel):
    server.script = certain
    spec = ServerSpec(base_url=server.base_url, model=MODEL, attempts=1)
    asked = CaptureSpec(temperature=0.0, max_new_tokens=TOKENS, signal="none", server=spec)
    plan = plan_served(tmp_path / "captures", target, PROMPTS[:5], asked, with_logprobs=True)
    check_logprobs(plan, spec, target)
    check_logprobs(plan, spec, target)
    assert len(server.requests) == 1
    make_served(plan, spec, target)
    assert len(server.requests) == 5
