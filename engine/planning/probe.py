"""How fast target and draft compute here, in about five seconds: the first estimate where no earlier run gives one.

The target is prefilled and decodes, alone and at the batch size of captures; the draft reads a text and learns from it.
What a run takes follows from how much of each it does: right within a factor of two, and replaced by what the run's own
phases show. Kept in the home by target, draft and machine, so that a recipe changed in its other keys needs no other.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from engine.capture.plan import CapturePlan
from engine.config.schema import MeasureSpec, Recipe
from engine.distill.schedule import answers_per_step, planned_steps
from engine.errors import DraftbenchError
from engine.models.head import Head, hidden_states
from engine.models.load import LoadedModel, model_fingerprint
from engine.paths import Home
from engine.records.record import Real, Record, Time
from engine.records.values import json_text
from engine.runs.drafts import untrained_draft
from engine.runs.plan import RunPlan
from engine.runs.process import now
from engine.runs.provenance import machine
from engine.served.capture import is_served

SECONDS = 5.0
_PREFILL = 24  # tokens of each row before it decodes
_READ = 256  # tokens of the text that the draft learns from
_ROUND_TOKENS = 2.0  # per round of speculative decoding, before anything is known of the acceptance
_CERTIFICATE_STEPS = 150.0  # single steps of the target that the certificate takes beside its texts, as on two cores


class Probe(Record):
    """Seconds of each kind of work."""

    FILE: ClassVar[str] = "probe.json"

    made_at: Time | None = None
    prefill_token_s: Real = math.nan
    """The target over one token of a prompt."""
    step_s: Real = math.nan
    """The target over one token, one row."""
    batch_step_s: Real = math.nan
    """The target over one token of each row of a capture's batch."""
    draft_step_s: Real = math.nan
    train_token_s: Real = math.nan
    """The draft forward and backward over one token, its head and the target's included."""

    @property
    def figures(self) -> tuple[float, ...]:
        return self.prefill_token_s, self.step_s, self.batch_step_s, self.draft_step_s, self.train_token_s


def kept_probe(home: Home, recipe: Recipe) -> Probe | None:
    """The probe of the recipe's target and draft on this machine, if one was made. The target must be at hand."""
    with contextlib.suppress(DraftbenchError, OSError):
        kept = Probe.read(home.root / "probes" / _key(recipe))
        if kept is not None and not any(map(math.isnan, kept.figures)):
            return kept
    return None


def probe(home: Home, recipe: Recipe, target: LoadedModel) -> Probe:
    """Time target and draft for about `SECONDS`, and keep the figures."""
    draft = untrained_draft(home, recipe, target)
    made = Probe(
        made_at=now(),
        **_decoding(target.model, recipe.capture.side_by_side),
        draft_step_s=_steps(draft.model, 1, SECONDS / 10, is_draft=True)[1],
        train_token_s=_learning(draft.model, SECONDS / 4),
    )
    folder = home.root / "probes" / _key(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    made.write(folder)
    return made


def seconds_of(
    probe: Probe, recipe: Recipe, plan: RunPlan, open_share: Callable[[CapturePlan], float]
) -> dict[str, float]:
    """Seconds of a run by part, as `estimate.Estimate.seconds`: answers counted as long as they may be.

    `open_share`: how much of a capture is still to be made. Captures that a server answers are left out.
    """
    captures = [capture for capture in plan.captures.values() if not is_served(capture)]
    seconds = {"capture": sum(_capture_s(probe, recipe, one) * open_share(one) for one in captures)}
    training = plan.training
    if training is not None and recipe.train.mode != "on_policy":  # there the draft writes as well
        texts = _prompt_tokens(training) + training.most_tokens
        answers, tokens = len(training.prompts), training.most_tokens
        steps = planned_steps(answers, recipe.train, tokens)
        passes = steps * answers_per_step(answers, recipe.train, tokens) / max(1, answers)
        seconds["training"] = passes * texts * probe.train_token_s
        if plan.decodes_training:
            seconds["training"] += _capture_s(probe, recipe, training)
    if recipe.measure.against == "model":
        seconds["measurement"] = _measure_s(probe, recipe.measure, plan.heldout)
    return seconds


def _capture_s(probe: Probe, recipe: Recipe, plan: CapturePlan) -> float:
    rows = min(recipe.capture.side_by_side, len(plan.prompts)) or 1
    return _prompt_tokens(plan) * probe.prefill_token_s + plan.most_tokens / rows * probe.batch_step_s


def _measure_s(probe: Probe, spec: MeasureSpec, heldout: Mapping[float, CapturePlan]) -> float:
    """Both drafts over the held-out texts, the trace, the timing in three ways, the certificate."""
    read = sum(_prompt_tokens(plan) + plan.most_tokens for plan in heldout.values()) * 2 * probe.train_token_s / 3
    round_s = spec.num_draft_tokens * probe.draft_step_s + probe.step_s
    trace = len(spec.temperatures) * -(-spec.trace_prompts // 12) * spec.max_new_tokens / _ROUND_TOKENS
    timed = spec.speed_prompts * spec.speed_tokens * (2 * probe.step_s + round_s / _ROUND_TOKENS)
    certified = (3 * spec.certificate_prompts * spec.certificate_tokens + _CERTIFICATE_STEPS) * probe.step_s
    return read + trace * (probe.batch_step_s + spec.num_draft_tokens * probe.draft_step_s) + timed + certified


def _prompt_tokens(plan: CapturePlan) -> int:
    return sum(map(len, plan.prompt_ids))


def _decoding(model: Any, rows: int) -> dict[str, float]:
    prefill, batch = _steps(model, rows, SECONDS / 4)
    return {"prefill_token_s": prefill, "batch_step_s": batch, "step_s": _steps(model, 1, SECONDS / 4)[1]}


@torch.no_grad()
def _steps(model: Any, rows: int, seconds: float, *, is_draft: bool = False) -> tuple[float, float]:
    """Seconds of one token of a prefill, and the median of a step of so many rows; at least two steps are taken."""
    from engine.decode.runner import runner_for  # takes seconds to load, which reading a kept probe spares

    runner, text = runner_for(model, is_draft=is_draft), [[1 + place % 50 for place in range(_PREFILL)]] * rows
    try:
        runner.feed([ids[:2] for ids in text], last=1)  # whatever the first forward prepares
        prefill = _timed(lambda: runner.feed([ids[2:] for ids in text], last=1), model)
        taken: list[float] = []
        ends = time.monotonic() + seconds
        while len(taken) < 2 or (time.monotonic() < ends and len(taken) < 64):
            taken.append(_timed(lambda: runner.feed([[1]] * rows, last=1), model))
    finally:
        runner.close()
    return prefill / (rows * (_PREFILL - 2)), statistics.median(taken)


def _learning(model: Any, seconds: float) -> float:
    """Seconds of a token that the draft learns from: forward and backward, its logits against the target's."""
    ids = torch.tensor([[1 + place % 50 for place in range(_READ)]], device=model.device)
    head = Head.of(model)

    def learn() -> None:
        hidden = hidden_states(model, ids)[0]
        with torch.no_grad():
            # as many rows as the draft's: the target's hidden states are kept, and its head computes the rest
            wanted = head.logits(hidden).float().log_softmax(-1)
        learnt = head.logits(hidden).float().log_softmax(-1)
        loss = torch.nn.functional.kl_div(learnt, wanted, reduction="sum", log_target=True)
        loss.backward()  # type: ignore[no-untyped-call]

    taken: list[float] = []
    ends = time.monotonic() + seconds
    try:
        while len(taken) < 2 or (time.monotonic() < ends and len(taken) < 16):
            taken.append(_timed(learn, model))
    finally:
        model.zero_grad(set_to_none=True)
    return min(taken) / _READ


def _timed(work: Callable[[], Any], model: Any) -> float:
    began = time.perf_counter()
    work()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - began


def _key(recipe: Recipe) -> str:
    """The folder of a probe: a hash of what its figures depend on."""
    parts: Sequence[Any] = (
        model_fingerprint(recipe.target),
        recipe.target.model_dump(mode="json", exclude={"template_date"}),
        recipe.draft.model_dump(mode="json"),
        recipe.capture.side_by_side,
        machine().model_dump(mode="json"),
    )
    return hashlib.sha256(json_text(parts).encode()).hexdigest()[:16]
