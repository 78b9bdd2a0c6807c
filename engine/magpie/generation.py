"""Generate synthetic prompts: the target writes queries, unfit ones are filtered out, the rest becomes a prompt file.

    <home>/magpie/<name>-<address>/
      spec.json     what the address is the hash of
      raw.jsonl     one line per raw query, in order, complete batches only
      prompts.jsonl the kept prompts, unless another file is named; prompts.json beside it describes them

The address depends on what changes the queries, not on their number: a larger number continues after the existing
queries, and other filters need no new ones. Answers are not stored here: a capture of these prompts makes the target
answer them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.capture.generate import answer_prompts
from engine.capture.signal import SignalFormat
from engine.capture.store import exclusive
from engine.config.reading import load_section
from engine.decode.sampling import Sampling
from engine.errors import Cancelled, DraftbenchError
from engine.fileio import disk_errors, write_atomic, write_json
from engine.magpie.plan import Plan, plan_queries
from engine.magpie.prompt_file import MagpieResult, RawLine, as_lines, output_file, raw_lines, write_prompts
from engine.magpie.recipe import MagpieRecipe
from engine.magpie.user_turn import Opening
from engine.models.load import LoadedModel, load_model
from engine.paths import Home, resolve_input
from engine.progress import Progress
from engine.stopping import stop_on_signals


def synthesise(
    home: Home, recipe: str, settings: Sequence[str], *, out: Path | None, overwrite: bool, quiet: bool = False
) -> MagpieResult:
    """Write the prompts of a Magpie recipe; return their description, with the paths of prompts and raw queries.

    Continues earlier work. Raises Cancelled at Ctrl-C or SIGTERM, with complete batches kept, and DraftbenchError for a
    target without a chat template, a file that this recipe did not write, or if nothing passes the filters.
    """
    with stop_on_signals() as stop_wanted:
        progress = Progress(quiet=quiet, stop_wanted=stop_wanted)
        try:
            file = resolve_input(recipe)
            plan = plan_queries(home, load_section(MagpieRecipe, file, settings), file.parent)
            output_file(plan, out, overwrite=overwrite)
            with disk_errors(plan.folder):
                plan.folder.mkdir(parents=True, exist_ok=True)
            with exclusive(plan.folder, progress, plan.folder.name):
                write_raw(plan, progress)
                return write_prompts(plan, out, overwrite=overwrite)
        except KeyboardInterrupt:
            raise Cancelled("magpie") from None
        finally:
            progress.finish()


def write_raw(plan: Plan, progress: Progress) -> None:
    """Extend the raw file to `queries` lines.

    A query's random numbers depend on its number alone, so a resumed run equals an uninterrupted one.
    """
    total, size = plan.recipe.queries, plan.recipe.batch_size
    done = _recover(plan)
    if done >= total:
        return
    target = load_model(plan.target)
    write_json(plan.folder / "spec.json", plan.spec)
    began, tokens = time.monotonic(), 0
    progress.start("queries", total, "queries", done=done)
    for start in range(done, total, size):
        lines = []
        for line in _write_batch(plan, target, range(start, min(start + size, total)), progress):
            lines.append(line)
            tokens += line["tokens"]
            progress.advance(1, tokens_per_s=round(tokens / (time.monotonic() - began), 1))
        with disk_errors(plan.raw_file), open(plan.raw_file, "ab") as file:
            file.write(as_lines(sorted(lines, key=lambda line: line["number"])))
    progress.finish()


def _write_batch(plan: Plan, target: LoadedModel, numbers: range, progress: Progress) -> Iterator[RawLine]:
    """Write some queries; yield their raw lines in the order in which the target ends them."""
    recipe, steering = plan.recipe, [plan.steering(number) for number in numbers]
    by_steering = {one: plan.opening(one) for one in set(steering)}
    openings = [by_steering[one] for one in steering]
    _refuse_too_long(target, max(len(opening.ids) for opening in openings), recipe.max_new_tokens)
    answers = answer_prompts(
        target.model,
        [opening.ids for opening in openings],
        [f"magpie-{number}" for number in numbers],
        Sampling(recipe.temperature, recipe.top_k, recipe.top_p),
        max_new_tokens=recipe.max_new_tokens,
        stop_ids=target.stop_ids.union(*(opening.end_ids for opening in openings)),
        seed=recipe.seed,
        batch_size=len(numbers),
        signal=SignalFormat("none", 0, target.vocab_rows, 0),
        before_forward=progress.stop_if_asked,
    )
    for answer in answers:
        ended = answer.finish_reason == "stop"
        written = answer.token_ids[:-1] if ended else answer.token_ids
        text, cut = _query_text(plan, openings[answer.index], written)
        yield {
            "number": numbers[answer.index],
            "seed": recipe.seed,
            "tools": steering[answer.index].tool_set if recipe.tools_from else None,
            "finished": ended or cut,
            "tokens": len(answer.token_ids),
            "text": text,
        }


def _query_text(plan: Plan, opening: Opening, written: Sequence[int]) -> tuple[str, bool]:
    """The query with its first words, "" if the target added nothing to the opening; and whether it was cut."""

    def text_of(ids: Sequence[int]) -> tuple[str, bool]:
        text, cut = opening.cut(plan.tokenizer.decode(ids, skip_special_tokens=False))
        return text.strip(), cut

    text, cut = text_of([*opening.begun, *written])
    return (text if text != text_of(opening.begun)[0] else ""), cut


def _refuse_too_long(target: LoadedModel, opening_tokens: int, max_new_tokens: int) -> None:
    context = target.context_tokens
    if context is not None and opening_tokens + max_new_tokens > context:
        raise DraftbenchError(
            f"the text before the query has {opening_tokens} tokens; with max_new_tokens {max_new_tokens} "
            f"that is more than the context of {context}",
            "the query would run past the model's context",
            "shorten the system prompts, or lower max_tools_characters or max_new_tokens",
        )


def _recover(plan: Plan) -> int:
    """Cut off a batch that a kill has torn, and return the number of raw queries."""
    lines = raw_lines(plan)
    whole = len(lines)
    if whole < plan.recipe.queries:
        whole -= whole % plan.recipe.batch_size
    kept = as_lines(lines[:whole])
    if plan.raw_file.exists() and plan.raw_file.read_bytes() != kept:
        write_atomic(plan.raw_file, kept)
    return whole
