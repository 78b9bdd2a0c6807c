"""Training from a server's likeliest tokens: the signal is the served model's, or the server is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.capture.signal import CompactSignal, LogitsSignal
from engine.capture.store import Capture
from engine.chat.prompt import Prompt
from engine.config.schema import CaptureSpec, ModelSpec, ServerSpec
from engine.distill.losses import LOSSES, Context
from engine.errors import DraftbenchError
from engine.fileio import read_lines
from engine.models.load import LoadedModel, load_model
from engine.paths import home
from engine.planning.checks import Check, checks
from engine.progress import Progress
from engine.records.provenance import Provenance
from engine.records.training import Training
from engine.runs.folder import RunFolder
from engine.runs.recipes import read_recipe
from engine.served.capture import make_served, plan_served
from engine.served.request_rate import RateLimiter
from tests.chat_server import MODEL, Said, Server, good
from tests.conftest import tiny_llama
from tests.tiny_pair import loaded, questions
from tests.unit.conftest import Draftbench
from tests.unit.served.telling import Telling
from workbench.run.facts import facts

pytestmark = pytest.mark.slow

K = 8


async def no_sleep(seconds: float) -> None:
    """Waits between attempts take no time here."""


class Notes(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def served() -> LoadedModel:
    """A target whose answers end, with first tokens that are neither certain nor nearly alike."""
    target = loaded(tiny_llama())
    target.model.generation_config.eos_token_id = list(range(40, 70))
    return target


def fetched(
    folder: Path,
    server: Server,
    target: LoadedModel,
    progress: Progress | None = None,
    prompts: list[Prompt] | None = None,
    logprobs: int = K,
    **changes: Any,
) -> Capture:
    spec = ServerSpec(base_url=server.base_url, model=MODEL, attempts=2, logprobs=logprobs)
    asked = CaptureSpec(**{"max_new_tokens": 16, "signal": "compact", "server": spec, **changes})
    plan = plan_served(folder / "captures", target, prompts or questions(), asked)
    return make_served(plan, spec, target, limiter=RateLimiter(sleep=no_sleep), progress=progress or Notes())


def signal_and_logits(capture: Capture, target: LoadedModel) -> tuple[CompactSignal, torch.Tensor, torch.Tensor]:
    """The signal of all answers, the target's own logits at these positions, and the ids."""
    raw, logits, ids = [], [], []
    for answer in capture.answers:
        given = torch.tensor([[*answer.prompt_ids, *answer.token_ids]])
        logits.append(target.model(input_ids=given).logits[0, len(answer.prompt_ids) - 1 : -1])
        raw.append(capture.raw_signal(answer))
        ids += answer.token_ids
    signal = capture.format.decode(torch.cat(raw), None)
    assert isinstance(signal, CompactSignal)
    return signal, torch.cat(logits), torch.tensor(ids)


@pytest.mark.parametrize("names", ["id", "bytes"])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_the_signal_is_the_targets_own_at_temperature_1(
    tmp_path: Path, server: Server, served: LoadedModel, names: str, temperature: float
):
    server.script = Telling(served, names=names)
    capture = fetched(tmp_path, server, served, temperature=temperature)
    signal, logits, ids = signal_and_logits(capture, served)
    own = torch.log_softmax(logits.float(), -1)
    used = signal.token_ids < served.vocab_rows
    assert (used.sum(-1) >= K).all()
    at = own.gather(-1, signal.token_ids.clamp_max(served.vocab_rows - 1))
    assert (at[used] - signal.logprobs[used]).abs().max() < 5e-3  # float16 on disk
    assert torch.equal(signal.logprobs.argmax(-1), torch.zeros(len(ids), dtype=torch.long))
    assert ((signal.token_ids == ids.unsqueeze(-1)).sum(-1) == 1).all()  # what was written is always known
    mass = (at.exp() * used).sum(-1)
    assert (signal.tail_mass + mass - 1).abs().max() < 3e-3
    counts = capture.counts.server
    assert counts is not None
    assert counts.signal is not None
    assert counts.signal.logprobs == K
    assert counts.signal.tail == pytest.approx(float(1 - mass.mean()), abs=3e-3)
    assert counts.signal.left_out.cut == 0
    assert (temperature == 1) == math.isfinite(counts.signal.z)
    assert abs(counts.signal.z) < 4 or temperature != 1


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("sft", "tvd_pp")])
def test_every_loss_is_that_of_the_same_support_with_its_gradient(
    tmp_path: Path, server: Server, served: LoadedModel, name: str
):
    """The draft's part outside of what was sent is one number; a loss of it and of the whole agree on that support."""
    server.script = Telling(served)
    signal, logits, ids = signal_and_logits(fetched(tmp_path, server, served), served)
    draft_logits = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    context = Context(token_ids=ids, uniforms=torch.rand(len(ids)))
    loss = LOSSES[name](draft_logits, signal, context)
    loss.sum().backward()
    gradient = draft_logits.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    # the same by hand: tokens that were sent keep their columns, all others are added up to one
    sent = torch.zeros_like(logits, dtype=torch.bool)
    used = signal.token_ids < served.vocab_rows
    for row in range(len(ids)):
        sent[row, signal.token_ids[row][used[row]]] = True
    by_hand = draft_logits.detach().clone().requires_grad_()

    def merged(logprobs: torch.Tensor) -> torch.Tensor:
        rest = logprobs.masked_fill(sent, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([logprobs.masked_fill(~sent, -60.0), rest], -1)

    if name == "argmax_ce":
        expected = -torch.log_softmax(by_hand, -1).gather(-1, logits.argmax(-1, keepdim=True)).squeeze(-1)
    else:
        support = LogitsSignal(merged(torch.log_softmax(logits.float(), -1)))
        expected = LOSSES[name](merged(torch.log_softmax(by_hand, -1)), support, context)
    assert (loss - expected).abs().max() < 0.02  # float16 on disk
    expected.sum().backward()
    assert by_hand.grad is not None
    assert (gradient - by_hand.grad).abs().max() < 0.02


def refusal(folder: Path, server: Server, target: LoadedModel, script: Any, **changes: Any) -> DraftbenchError:
    server.script = script
    with pytest.raises(DraftbenchError) as error:
        fetched(folder, server, target, **changes)
    return error.value


def test_a_server_that_renormalises_over_what_it_sends_is_refused(tmp_path: Path, server: Server, served: LoadedModel):
    error = refusal(tmp_path, server, served, Telling(served, tells="renormalised"))
    assert "how many are asked for" in error.what
    assert "whole distribution" in error.why
    assert len(server.requests) == 8  # two for each of four prompts, and no answer was paid for


@pytest.mark.parametrize("settings", [{"temperature": 0.4}, {"top_p": 0.5}])
def test_a_server_that_reports_what_temperature_or_top_p_made_is_refused(
    tmp_path: Path, server: Server, served: LoadedModel, settings: dict[str, float]
):
    error = refusal(tmp_path, server, served, Telling(served, tells="processed"), **settings)
    assert "change with the sampling settings" in error.what
    assert "raw_logprobs" in error.fix
    server.script = Telling(served, tells="processed")  # at temperature 1 with nothing cut off the two are one
    assert fetched(tmp_path, server, served).counts.prompts == 6


def test_logits_in_place_of_log_probabilities_are_refused(tmp_path: Path, server: Server, served: LoadedModel):
    error = refusal(tmp_path, server, served, Telling(served, tells="logits"))
    assert "log-probabilities" in error.what


def test_more_than_the_operator_allows_is_refused_with_what_to_lower(
    tmp_path: Path, server: Server, served: LoadedModel
):
    error = refusal(tmp_path, server, served, Telling(served, most=5))
    assert "greater than 5" in error.what
    assert "capture.server.logprobs" in error.fix
    assert "--max-logprobs" in error.fix


def test_a_server_without_log_probabilities_is_refused(tmp_path: Path, server: Server, served: LoadedModel):
    error = refusal(tmp_path, server, served, good)
    assert "sends no likeliest tokens" in error.what
    assert "signal: none" in error.fix


def test_text_that_does_not_follow_what_is_sent_is_refused(tmp_path: Path, server: Server, served: LoadedModel):
    """The text of one model and the probabilities of another: each is consistent, and the two do not fit."""
    other = loaded(tiny_llama(seed=3))
    other.model.generation_config.eos_token_id = list(range(40, 70))
    text, told = Telling(served), Telling(other)

    def mixed(body: dict[str, Any], number: int) -> Said:
        if body["max_tokens"] == 1:
            return told(body, number)
        said = text(body, number)
        for entry in said.body["choices"][0]["logprobs"]["content"]:  # ids reversed: sure of what is not written
            listed = [top["logprob"] for top in entry["top_logprobs"]]
            for top, logprob in zip(entry["top_logprobs"], sorted(listed), strict=True):
                top["logprob"] = logprob
            entry["logprob"] = entry["top_logprobs"][0]["logprob"]
        return said

    error = refusal(
        tmp_path,
        server,
        served,
        mixed,
        temperature=0.0,
        prompts=[Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(24)],
    )
    assert "wrote its likeliest token" in error.what


def test_fewer_tokens_than_asked_for_are_said_and_the_mass_stays_right(
    tmp_path: Path, server: Server, served: LoadedModel
):
    server.script = Telling(served, fewer=3)
    progress = Notes()
    capture = fetched(tmp_path, server, served, progress)
    signal, logits, _ = signal_and_logits(capture, served)
    own = torch.softmax(logits.float(), -1)
    used = signal.token_ids < served.vocab_rows
    mass = (own.gather(-1, signal.token_ids.clamp_max(served.vocab_rows - 1)) * used).sum(-1)
    assert (used.sum(-1) == K - 3).all()
    assert (signal.tail_mass + mass - 1).abs().max() < 3e-3
    assert any(f"sends {K - 3} likeliest tokens, {K} were asked for" in note for note in progress.said)
    assert any("sent fewer than the 8 likeliest" in note for note in progress.said)
    assert capture.counts.server is not None
    assert capture.counts.server.signal is not None
    assert capture.counts.server.signal.left_out.short == capture.tokens


def test_tokens_known_by_text_alone_are_used_as_far_as_they_are_certain(
    tmp_path: Path, server: Server, served: LoadedModel
):
    server.script = Telling(served, names="text")  # half of this model's tokens are bytes that are no character
    progress = Notes()
    prompts = [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(20)]
    with pytest.raises(DraftbenchError, match="first token has no certain id"):
        fetched(tmp_path, server, served, progress, prompts)
    lines = (next((tmp_path / "captures").iterdir()) / "answers.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert kept
    assert sum(line["signal"]["cut"] for line in kept) > 0
    assert sum(line["signal"]["unnamed"] for line in kept) > 0.1
    for line in kept:
        assert all(2 <= token < 2 + 128 or token < 2 or token > 128 for token in line["token_ids"])


def test_an_end_without_a_distribution_is_left_out_and_said(tmp_path: Path, server: Server, served: LoadedModel):
    server.script = Telling(served)
    prompts = [prompt for prompt in questions() if prompt.id != "q4"]  # its answer is nothing but an end
    whole = fetched(tmp_path, server, served, prompts=prompts)
    server.script = Telling(served, has_end=False)
    progress = Notes()
    capture = fetched(tmp_path / "more", server, served, progress, prompts=prompts)
    ended = sum(answer.token_ids[-1] in served.stop_ids for answer in whole.answers)
    assert ended
    assert capture.tokens == whole.tokens - ended
    assert capture.counts.stopped == 0
    assert any(f"{ended} answers end without a distribution" in note for note in progress.said)


def test_a_torn_reply_is_asked_for_again_and_one_that_is_no_distribution_is_set_aside(
    tmp_path: Path, server: Server, served: LoadedModel
):
    telling = Telling(served)
    torn: set[str] = set()

    def script(body: dict[str, Any], number: int) -> Said:
        said, asked = telling(body, number), body["messages"][-1]["content"]
        if body["max_tokens"] == 1:
            return said
        if asked not in torn:
            torn.add(asked)
            return Said(body=said.body, cut=True)
        if asked == "hi":
            for top in said.body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1:3]:
                top["logprob"] = -0.1
        return said

    error = refusal(tmp_path, server, served, script)
    assert "sum to" in error.what
    assert "'q0'" in error.what
    assert "5 of 6 prompts are answered" in error.why
    server.script = telling
    assert fetched(tmp_path, server, served).counts.prompts == 6


def test_answers_of_a_smaller_set_are_copied_with_their_signal_and_counts(
    tmp_path: Path, server: Server, served: LoadedModel
):
    server.script = Telling(served, fewer=1)
    whole = fetched(tmp_path, server, served)
    asked = len(server.requests)
    part = fetched(tmp_path, server, served, prompts=questions(3))
    assert len(server.requests) == asked
    theirs = {answer.prompt_id: whole.raw_signal(answer) for answer in whole.answers}
    assert all(torch.equal(part.raw_signal(answer), theirs[answer.prompt_id]) for answer in part.answers)
    assert part.counts.server is not None
    assert part.counts.server.signal is not None
    assert part.counts.server.signal.left_out.short == part.tokens


def test_the_number_of_log_probabilities_is_part_of_the_address_and_other_captures_keep_theirs(
    tmp_path: Path, served: LoadedModel
):
    def address(signal: str, **changes: Any) -> str:
        spec = ServerSpec(base_url="http://127.0.0.1:8000/v1", model="m", **changes)
        settings = CaptureSpec(signal=signal, server=spec)
        return plan_served(tmp_path, served, questions(), settings).address

    assert address("none") == "189807572ea566459f8fb6ae"
    assert address("none", also_at=["http://127.0.0.1:8001/v1"]) == address("none")
    assert len({address("none"), address("compact", logprobs=8), address("compact", logprobs=9)}) == 3
    told = plan_served(
        tmp_path,
        replace(served),
        questions(),
        CaptureSpec(signal="none", server=ServerSpec(base_url="http://127.0.0.1:8000/v1", model="m")),
        with_logprobs=True,
    )
    assert told.address == "b1ee7bea1135462ec1fed498"


def test_a_run_learns_from_a_servers_likeliest_tokens_and_says_how_far_they_reach(
    recipe: Path, tiny_target_folder: Path, server: Server, draftbench: Draftbench
):
    server.script = Telling(load_model(ModelSpec(model=str(tiny_target_folder), dtype="float32")))
    own = {"base_url": server.base_url, "model": MODEL, "attempts": 1, "logprobs": K}
    values = ["capture.signal=compact", "train.loss=forward_kl", f"capture.server={json.dumps(own)}"]
    done = draftbench("train", str(recipe), *[part for value in values for part in ("--set", value)], "--json")
    assert done.code == 0, done.err
    run = RunFolder.open(home(), "latest")
    losses = [event["loss"] for event in read_lines(run.path / "events.jsonl") if event["kind"] == "train"]
    assert losses[-1] < losses[0]
    provenance = Provenance.read(run.path)
    assert provenance is not None
    assert provenance.supervision == "white_box"
    training = provenance.captures["training"].server
    assert training is not None
    assert training.signal is not None
    assert training.signal.logprobs == K
    assert 0 < training.signal.tail < 1
    assert (
        f"signal of {MODEL}: {training.signal.kept:.1f} tokens at each position" in (run.path / "log.txt").read_text()
    )
    rows = dict(facts(run.recipe(), Training()))
    assert rows["Signal"] == f"the {K} likeliest tokens that the server sends and one bucket for the rest"
    looked = {check.name: check for check in checks(home(), run.recipe())}
    assert looked["loss"].message == f"forward_kl, on {rows['Signal']}"
    assert looked["server"].state == "ok"


def test_a_look_before_a_run_names_the_servers_that_are_gone(recipe: Path, server: Server):
    def look(*urls: str) -> Check:
        values = {"base_url": list(urls), "model": MODEL, "logprobs": K}
        settings = ["capture.signal=compact", f"capture.server={json.dumps(values)}"]
        whole = read_recipe(home(), str(recipe), settings, skip_bad=False)
        return {check.name: check for check in checks(home(), whole)}["server"]

    gone = "http://127.0.0.1:9/v1"
    assert look(server.base_url).state == "ok"
    some = look(server.base_url, gone)
    assert some.state == "warning"
    assert f"1 of 2 servers would be left out: {gone}" in some.message
    assert look(gone, "http://127.0.0.1:10/v1").state == "failed"


def test_a_trimmed_checkpoint_is_refused_before_an_answer_is_paid_for(
    recipe: Path, server: Server, draftbench: Draftbench
):
    trimmed = draftbench("train", str(recipe), "--set", "draft.vocabulary=60", "--json")
    assert trimmed.code == 0, trimmed.err
    own = {"base_url": server.base_url, "model": MODEL, "attempts": 1, "logprobs": K}
    draft = {"init": "checkpoint", "checkpoint": RunFolder.open(home(), "latest").id}
    values = ["capture.signal=compact", f"capture.server={json.dumps(own)}", f"draft={json.dumps(draft)}"]
    refused = draftbench("train", str(recipe), *[part for value in values for part in ("--set", value)])
    assert refused.code == 2
    assert "trimmed vocabulary" in refused.err
    assert server.requests == []
