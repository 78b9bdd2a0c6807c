"""Checks of the prompts: whether they can be read, whether they overlap, and whether answers to them have room."""

from __future__ import annotations

from collections.abc import Sequence

from engine.chat.marks import marks_in
from engine.chat.prompt import Prompt
from engine.chat.rendering import render
from engine.chat.unwritten import unwritten
from engine.data.columns import remarks
from engine.data.subsets import distinct, nested_subset, split_heldout
from engine.models.context import context_of, least_context
from engine.planning.checks.subject import Finding, Subject, failed, ok, warning

_LONGEST = 2000  # prompts whose tokens are counted: the longest in characters
_FEW = 20  # measured prompts: with fewer the intervals are wide
_UNREADABLE = "not looked at: the prompts could not be read"


def source(subject: Subject, side: str) -> Finding:
    """Check that the prompts of a side, 'train' or 'heldout', can be read, and count them."""
    recipe, read = subject.recipe, subject.prompts(side)
    message = f"{len(read.prompts):,} prompts" + (f"; {len(read.bad)} bad rows" if read.bad else "")
    message += "".join(f"; {remark}" for info in read.sources for remark in remarks(info))
    if read.bad and not recipe.prompts.skip_bad:
        first = read.bad[0]
        return failed(
            f"{message}, the first in {first.file}, row {first.line}: {first.reason}",
            "correct them, or set prompts.skip_bad to continue without them",
        )
    once = distinct(read.prompts) if side == "heldout" else read.prompts
    if repeats := len(read.prompts) - len(once):
        message += f"; {repeats:,} repeat another one and are left out"
    finding = warning if repeats else ok
    if not recipe.trains:
        count = len(once[: recipe.measure.heldout_prompts])
        if count < 2:
            return warning(message, "one prompt has no interval")
        return finding(f"{message}: {count} to measure on")
    if side == "heldout":
        watched, measured = split_heldout(read.prompts, recipe.train.eval_prompts, recipe.measure.heldout_prompts)
        message += f": {len(watched)} to choose the draft by, {len(measured)} to measure on"
        if len(measured) < _FEW:
            return warning(message, f"with fewer than {_FEW} the intervals are wide")
        return finding(message)
    if recipe.prompts.train_prompts:
        message += f", {recipe.prompts.train_prompts:,} of them to train on"
    return warning(message) if read.bad else ok(message)


def overlap(subject: Subject) -> Finding:
    """Check for training prompts that repeat held-out ones, and that enough are left without them."""
    if not subject.readable():
        return warning(_UNREADABLE)
    kept, repeats = subject.without_overlap
    if not kept:
        return failed("every training prompt repeats a held-out one", "give other prompts to train on")
    nested_subset(kept, subject.recipe.prompts.train_prompts)
    if not repeats:
        return ok("no training prompt repeats a held-out one")
    example = f"such as {repeats[0].prompt_id} of {repeats[0].repeats_id}"
    return warning(f"{len(repeats)} training prompts repeat a held-out one and are left out, {example}")


def length(subject: Subject) -> Finding:
    """Check that the target's context has room for the prompts and an answer to each."""
    if not subject.readable():
        return warning(_UNREADABLE)
    if unseen := subject.unseen(tokenizer=True):
        return unseen
    recipe, context = subject.recipe, context_of(subject.config)
    limit, wanted = recipe.prompts.max_prompt_tokens, recipe.prompts.train_prompts
    answer = recipe.measure.max_new_tokens if recipe.has_draft else recipe.measure.speed_tokens
    all_train = subject.without_overlap[0] if recipe.trains else []
    short = _no_longer_than(subject, all_train, limit)
    train = _token_counts(subject, nested_subset(short, min(wanted or len(short), len(short))))
    held = subject.prompts("heldout").prompts
    fit = _no_longer_than(subject, held, max(limit, context - answer) if limit and context else None)
    left_out = len(held) - len(fit)
    beyond = f"; {left_out} held-out ones leave no room for an answer and are left out" if left_out else ""
    if len(distinct(fit)) < (2 if recipe.trains else 1):
        if not left_out:
            return warning("not looked at: too few held-out prompts")  # which their own check says
        return failed(f"too few held-out prompts are left{beyond}", "lower measure.max_new_tokens")
    heldout = _token_counts(subject, _rendered(subject, fit))
    message = f"the longest has {max([*train, *heldout], default=0):,} tokens, the context {context or 'no limit'}"
    if problem := _beyond_draft(subject, train, heldout):
        return failed(f"{problem}: {message}", "lower max_new_tokens, use shorter prompts, or another draft")
    if problem := _beyond_when_decoded(subject, fit, context):
        return failed(f"{problem}: {message}", "lower measure.speed_tokens or measure.certificate_tokens")
    if over_limit := len(all_train) - len(short):
        message += f"; {over_limit} longer than prompts.max_prompt_tokens are left out"
        if not short:
            return failed(f"no training prompt is left: {message}", "raise prompts.max_prompt_tokens")
        if wanted and len(short) < wanted:
            return failed(
                f"prompts.train_prompts is {wanted:,}, but {len(short):,} training prompts are left: {message}",
                "lower prompts.train_prompts, or raise prompts.max_prompt_tokens",
            )
    message += beyond
    if context is None:
        return ok(message)
    long_train = sum(n + recipe.capture.max_new_tokens > context for n in train)
    long_heldout = sum(n + answer > context for n in heldout)
    if not long_train + long_heldout:
        return ok(message)
    lower = "max_new_tokens" if recipe.has_draft else "measure.speed_tokens"
    return failed(
        f"{long_train} training and {long_heldout} held-out prompts are too long for an answer: {message}",
        f"lower {lower}, set prompts.max_prompt_tokens, or take the held-out ones out",
    )


def _rendered(subject: Subject, fit: Sequence[Prompt]) -> list[Prompt]:
    """The held-out prompts that the run reads: to choose the draft by and measure on, or to time the target alone."""
    recipe, measure = subject.recipe, subject.recipe.measure
    if recipe.trains:
        watched, measured = split_heldout(fit, recipe.train.eval_prompts, measure.heldout_prompts)
        return watched + measured
    once = distinct(fit)[: measure.heldout_prompts]
    return once if recipe.has_draft else once[: measure.speed_prompts]


def _beyond_draft(subject: Subject, train: list[int], heldout: list[int]) -> str:
    """How many prompts leave no room for an answer in the draft's context, where that is shorter; else ''."""
    recipe, reads = subject.recipe, subject.draft_context
    if reads is None:
        return ""
    long = sum(n + recipe.capture.max_new_tokens > reads for n in train)
    long += sum(n + recipe.measure.max_new_tokens > reads for n in heldout)
    return f"{long} prompts with their answers are longer than the draft's {reads:,} tokens of context" if long else ""


def _beyond_when_decoded(subject: Subject, fit: Sequence[Prompt], context: int | None) -> str:
    """How many prompts leave no room for the answers that are timed or certified, which have lengths of their own."""
    recipe, measure = subject.recipe, subject.recipe.measure
    reads = least_context(context, subject.draft_context)
    if reads is None or measure.against == "server" or not recipe.has_draft:
        return ""
    most = measure.heldout_prompts
    measured = split_heldout(fit, recipe.train.eval_prompts, most)[1] if recipe.trains else distinct(fit)[:most]
    asked = {measure.speed_tokens: measure.speed_prompts, measure.certificate_tokens: measure.certificate_prompts}
    long = 0
    for answer, prompts in asked.items():
        long += sum(n + answer > reads for n in _token_counts(subject, measured[:prompts]))
    return f"{long} answers would be timed or certified beyond the context of {reads:,} tokens" if long else ""


def in_the_template(subject: Subject) -> Finding:
    """Report what the target's chat template leaves out of the prompts, and prompts that hold its marks as text."""
    if not subject.readable():
        return warning(_UNREADABLE)
    if unseen := subject.unseen(model=False, tokenizer=True):
        return unseen
    sides = ["heldout", "train"] if subject.recipe.trains else ["heldout"]
    asked = [prompt for side in sides for prompt in subject.prompts(side).prompts]
    left_out, marks = unwritten(subject.tokenizer, asked), marks_in(subject.tokenizer, asked)
    if marks:
        also = f"; it does not write {'; '.join(left_out.in_words())}" if left_out.parts else ""
        return warning(
            f"prompts hold marks of the template as text: {'; '.join(marks)}{also}",
            "continue if they ask about the marks; if a text was rendered already, give its messages instead",
        )
    if not left_out.parts:
        return ok(f"everything in {left_out.looked_at:,} prompts is written")
    return warning(
        f"the template does not write {'; '.join(left_out.in_words())}",
        "continue if this is intended: a server with this template leaves it out as well; else change the prompts",
    )


def _no_longer_than(subject: Subject, prompts: Sequence[Prompt], most: int | None) -> list[Prompt]:
    """The prompts of at most so many tokens, in their order; all if `most` is None."""
    if most is None:
        return list(prompts)
    longest = _longest(prompts)
    counts = zip(longest, _token_counts(subject, longest), strict=True)
    beyond = {id(prompt) for prompt, tokens in counts if tokens > most}
    return [prompt for prompt in prompts if id(prompt) not in beyond]


def _longest(prompts: Sequence[Prompt]) -> list[Prompt]:
    return sorted(prompts, key=lambda p: sum(len(str(m["content"])) for m in p.messages), reverse=True)[:_LONGEST]


def _token_counts(subject: Subject, prompts: Sequence[Prompt]) -> list[int]:
    """Tokens of the longest prompts as the target reads them; an id that it has no embedding for is refused."""
    rows = int(subject.outline.get_input_embeddings().weight.shape[0])
    return [
        len(render(subject.tokenizer, p, context_tokens=None, max_new_tokens=0, rows=rows)) for p in _longest(prompts)
    ]
