"""The plan of a run: how its prompts are split, and which captures it makes or reuses.

Nothing is captured, trained or written here, and the target may be an outline without weights. Estimates, checks, the
costs of a study, exports and the run itself read the same plan, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.capture.plan import CapturePlan, plan_capture
from engine.chat.prompt import Prompt, prompts_hash
from engine.chat.rendering import measurable, render
from engine.config.schema import CaptureSpec, MeasureSpec, Recipe
from engine.data.overlap import remove_overlap
from engine.data.readers import read_prompts
from engine.data.subsets import distinct, nested_subset, split_heldout
from engine.errors import DraftbenchError
from engine.models.load import LoadedModel
from engine.served.capture import plan_served


@dataclass(frozen=True)
class PromptSplit:
    """Prompts of a run: to train on, to watch while training, and to measure on afterwards.

    The draft that is kept is chosen on `watched`; the figures come from `measured` alone, so the choice does not
    flatter them. `heldout_hash` covers every held-out prompt of the sources, also those that are not measured.
    """

    train: list[Prompt]
    watched: list[Prompt]
    measured: list[Prompt]
    counts: dict[str, int] = field(default_factory=dict)
    heldout_hash: str = ""


@dataclass(frozen=True)
class RunPlan:
    """The captures of a run.

    `training` holds the target's answers to the training prompts (None if there are too few prompts); with
    `decodes_training` they are written while the draft trains instead of being captured before. `watched` and
    `heldout` are what the draft is evaluated on while it trains and what it is measured on, by temperature.
    """

    training: CapturePlan | None
    decodes_training: bool
    watched: Mapping[float, CapturePlan]
    heldout: Mapping[float, CapturePlan]

    @property
    def captures(self) -> dict[str, CapturePlan]:
        """Every capture that the run makes or reuses, each once, by what it is for."""
        captures: dict[str, CapturePlan] = {}
        if self.training is not None and not self.decodes_training:
            captures["training"] = self.training
        if self.watched != self.heldout:
            captures |= {f"watched T={t:g}": plan for t, plan in self.watched.items()}
        return {**captures, **{f"held-out T={t:g}": plan for t, plan in self.heldout.items()}}

    @property
    def texts(self) -> list[tuple[str, int]]:
        """Each prompt's id, and how many tokens it and its answer may have, of every text that the run works on."""
        plans = [*self.captures.values(), *([self.training] if self.training and self.decodes_training else [])]
        return [text for plan in plans for text in plan.texts]


def decodes(recipe: Recipe) -> bool:
    """Return whether a run decodes its models, rather than reading text that a server writes."""
    return recipe.capture.server is None or recipe.measure.against == "model"


def split_prompts(recipe: Recipe, target: LoadedModel) -> PromptSplit:
    """Read, check and split the prompts; training prompts that repeat a held-out one are removed.

    Raises DraftbenchError if no training prompt is left, or fewer than the recipe asks for.
    """
    if not recipe.trains:
        return _measured_only(recipe, target)
    spec, measure = recipe.prompts, recipe.measure
    train = read_prompts(spec.train, skip_bad=spec.skip_bad, stored=True)
    heldout = read_prompts(spec.heldout, skip_bad=spec.skip_bad, stored=True)
    kept, repeats = remove_overlap(train.prompts, heldout.prompts)
    short = _within_limit(kept, spec.max_prompt_tokens, target)
    training = nested_subset(short, spec.train_prompts) if short else []
    # Only prompts that are over the limit and leave no room for an answer go: what drafts are measured on must not
    # depend on what they are trained on.
    fit = measurable(
        target.tokenizer, heldout.prompts, spec.max_prompt_tokens, target.context_tokens, measure.max_new_tokens
    )
    watched, measured = split_heldout(fit, recipe.train.eval_prompts, measure.heldout_prompts)
    beyond_context, repeated = len(heldout.prompts) - len(fit), len(fit) - len(distinct(fit))
    beyond_heldout = len(fit) - repeated - len(watched) - len(measured)
    counts = {
        "train": len(training),
        "watched": len(watched),
        "measured": len(measured),
        "bad_rows": len(train.bad) + len(heldout.bad),
        "removed_as_heldout": len(repeats),
        "removed_as_too_long": len(kept) - len(short),
        "beyond_train_prompts": len(short) - len(training),
        **({"heldout_beyond_context": beyond_context} if beyond_context else {}),
        **({"beyond_heldout_prompts": beyond_heldout} if beyond_heldout else {}),
        **({"heldout_repeated": repeated} if repeated else {}),
    }
    if not training:
        raise DraftbenchError(
            "no training prompt is left",
            in_words(counts),
            "check prompts.train and prompts.max_prompt_tokens",
        )
    return PromptSplit(training, watched, measured, counts, prompts_hash(heldout.prompts))


def _measured_only(recipe: Recipe, target: LoadedModel) -> PromptSplit:
    """The prompts of a run that trains nothing: no draft is chosen, so none are set aside to choose it by."""
    spec, measure = recipe.prompts, recipe.measure
    heldout = read_prompts(spec.heldout, skip_bad=spec.skip_bad, stored=True)
    tokens = measure.max_new_tokens if recipe.has_draft else measure.speed_tokens
    fit = measurable(target.tokenizer, heldout.prompts, spec.max_prompt_tokens, target.context_tokens, tokens)
    once = distinct(fit)
    measured = once[: measure.heldout_prompts]
    counts = {
        "measured": len(measured),
        "bad_rows": len(heldout.bad),
        "heldout_beyond_context": len(heldout.prompts) - len(fit),
        "beyond_heldout_prompts": len(once) - len(measured),
        **({"heldout_repeated": len(fit) - len(once)} if len(once) < len(fit) else {}),
    }
    if not measured:
        raise DraftbenchError(
            "no prompt is left to measure on", in_words(counts), "check prompts.heldout and prompts.max_prompt_tokens"
        )
    return PromptSplit([], [], measured, counts, prompts_hash(heldout.prompts))


def decoded_texts(
    heldout: Mapping[float, CapturePlan], prompts: PromptSplit, measure: MeasureSpec
) -> list[tuple[str, int]]:
    """Each held-out prompt that is timed or certified, and how many tokens it and its answer may have there."""
    if measure.against == "server" or not heldout:
        return []
    plan = next(iter(heldout.values()))
    lengths = {prompt.id: len(ids) for prompt, ids in zip(plan.prompts, plan.prompt_ids, strict=True)}
    timed = [(prompt.id, measure.speed_tokens) for prompt in prompts.measured[: measure.speed_prompts]]
    certified = [(prompt.id, measure.certificate_tokens) for prompt in prompts.measured[: measure.certificate_prompts]]
    most: dict[str, int] = {}
    for name, answer in timed + certified:
        most[name] = max(most.get(name, 0), lengths[name] + answer)
    return list(most.items())


def in_words(counts: Mapping[str, int]) -> str:
    """'train 8, watched 1, measured 5, ...'"""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _within_limit(prompts: list[Prompt], limit: int | None, target: LoadedModel) -> list[Prompt]:
    if limit is None:
        return prompts
    return [p for p in prompts if len(render(target.tokenizer, p, context_tokens=None, max_new_tokens=0)) <= limit]


def plan_run(captures: Path, recipe: Recipe, target: LoadedModel, prompts: PromptSplit) -> RunPlan:
    """Plan every capture of a run, at the very addresses it will look for."""
    if not recipe.has_draft:  # the target is timed, which takes no answers
        return RunPlan(None, False, {}, {})
    training = plan_training(captures, recipe, target, prompts.train) if recipe.trains else None
    heldout = plan_heldout(captures, recipe, target, prompts)
    watched = heldout
    if recipe.capture.server is not None:
        # The model at hand only stands in for a served one, so its answers would say little: the draft is watched on
        # what the server writes greedily.
        watched = {0.0: _plan_served_heldout(captures, recipe, target, prompts.watched, 0.0)}
    return RunPlan(training, not recipe.train.needs_capture, watched, heldout)


def plan_training(captures: Path, recipe: Recipe, target: LoadedModel, prompts: Sequence[Prompt]) -> CapturePlan:
    """Plan the answers to training prompts: the target's own, or those of a server."""
    plan = plan_capture if recipe.capture.server is None else plan_served
    return plan(captures, target, prompts, recipe.capture)


def plan_heldout(captures: Path, recipe: Recipe, target: LoadedModel, prompts: PromptSplit) -> dict[float, CapturePlan]:
    """Plan what drafts are measured on, one capture per temperature.

    The target's answers to all held-out prompts with the exact signal or, where the recipe measures against a server,
    the server's answers to the measured ones with the probabilities that it sends.
    """
    measure = recipe.measure
    if measure.against == "server":
        return {
            temperature: _plan_served_heldout(
                captures, recipe, target, prompts.measured, temperature, with_logprobs=True
            )
            for temperature in measure.temperatures
        }
    return {
        temperature: plan_capture(
            captures,
            target,
            prompts.watched + prompts.measured,
            CaptureSpec(
                temperature=temperature,
                top_p=measure.top_p,
                top_k=measure.top_k,
                max_new_tokens=measure.max_new_tokens,
                seed=measure.seed,
                batch_size=recipe.capture.batch_size,
                signal="exact",
            ),
        )
        for temperature in measure.temperatures
    }


def _plan_served_heldout(
    captures: Path,
    recipe: Recipe,
    target: LoadedModel,
    prompts: Sequence[Prompt],
    temperature: float,
    *,
    with_logprobs: bool = False,
) -> CapturePlan:
    measure = recipe.measure
    sampling = {"temperature": temperature, "top_p": 1.0, "top_k": 0, "signal": "none"}
    limits = {"max_new_tokens": measure.max_new_tokens, "seed": measure.seed}
    spec = recipe.capture.model_copy(update={**sampling, **limits})
    return plan_served(captures, target, prompts, spec, with_logprobs=with_logprobs)
