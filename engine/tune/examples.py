"""Records with a reference, and the token ids that tuning and its figures see.

The prompt goes through `engine.chat.rendering.render`, as in capture and measurement, so that
the target is tuned on the text it will be served (trap: two templates).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.chat.finish_reasons import ENDING_KEYS, ending_of, ending_word
from engine.chat.prompt import Prompt
from engine.chat.rendering import check_rows, render
from engine.chat.token_ids import token_ids
from engine.chat.turns import Turns, split_at_end, turns_of
from engine.config.schema import PromptSource
from engine.data.readers import SourceInfo, open_source, read_prompts
from engine.errors import DraftbenchError
from engine.fileio import content_hash
from engine.tune.recipe import TuneData


@dataclass(frozen=True)
class Example:
    """A prompt and what the assistant should say to it."""

    prompt: Prompt
    reference: str
    cut: str = ""
    """Text that came after the first end of turn in the reference, which a served answer would not have."""


@dataclass(frozen=True)
class Encoded:
    """An example as token ids: the prompt up to the answer's header, and the answer with its end-of-turn token."""

    example: Example
    prompt_ids: list[int]
    reference_ids: list[int]

    @property
    def tokens(self) -> int:
        """Positions in a forward pass: the last token is predicted, never read."""
        return len(self.prompt_ids) + len(self.reference_ids) - 1


@dataclass(frozen=True)
class ExampleSet:
    """The encoded examples of some sources, where they came from, and what was left out or cut."""

    encoded: list[Encoded]
    sources: list[SourceInfo]
    counts: dict[str, int] = field(default_factory=dict)

    def of_these(self, encoded: list[Encoded], end: int) -> ExampleSet:
        """The set with some of its examples alone, counted again. `end`: the token that ends an answer."""
        return replace(self, encoded=encoded, counts=self.counts | _counts_of(encoded, end))

    def described(self) -> dict[str, Any]:
        """Counts, sources and a hash of the token ids, for provenance."""
        ids = [[e.example.prompt.id, e.prompt_ids, e.reference_ids] for e in self.encoded]
        return {
            **self.counts,
            "prompt_tokens": sum(len(e.prompt_ids) for e in self.encoded),
            "reference_tokens": sum(len(e.reference_ids) for e in self.encoded),
            "sha256_of_ids": content_hash(ids),
            "sources": self.sources,
        }


class _Answered(PromptSource):
    """A source of which the answers are read as well; of tables only the columns that are named are loaded."""

    def columns(self) -> tuple[str, ...]:
        return (*super().columns(), "reference", *ENDING_KEYS)


def read_examples(
    sources: Sequence[PromptSource], data: TuneData, beside: Path | None
) -> tuple[list[Example], list[SourceInfo], int]:
    """Examples of the sources in order, where they came from, and how many records had no whole reference.

    A reference beside which the record says that the answer was cut, refused or failed would be learnt as one that
    ended, so it counts as none. Raises DraftbenchError for a record without reference unless `data.unanswered` is
    leave_out.
    """
    whole = read_prompts(sources, relative_to=beside)
    examples = []
    for prompt, record in zip(whole.prompts, _records(sources, whole.sources, beside), strict=True):
        reference, word = record.get("reference"), ending_word(record)
        is_whole = word is None or ending_of(word) == "stop"
        if isinstance(reference, str) and reference.strip() and is_whole:
            examples.append(Example(prompt, reference))
        elif data.unanswered == "refuse":
            lacks = "no reference" if reference is None else f"the reference {reference!r}"
            raise _no_reference(prompt.id, lacks if is_whole else f"a reference that ended with {word!r}")
    return examples, whole.sources, len(whole.prompts) - len(examples)


def _records(
    sources: Sequence[PromptSource], infos: Sequence[SourceInfo], beside: Path | None
) -> Iterator[Mapping[str, Any]]:
    """The records of the prompts in their order, since a Prompt does not hold the reference."""
    for source, info in zip(sources, infos, strict=True):
        answered = _Answered(**source.model_dump())
        rows = itertools.islice(open_source(answered, beside)[0], info["rows"])
        yield from (row.record for row in rows if row.record is not None)


def encode(
    tokenizer: Any,
    examples: Sequence[Example],
    data: TuneData,
    context_tokens: int | None,
    turns: Turns | None = None,
    rows: int | None = None,
) -> list[Encoded]:
    """Token ids of the examples whose prompt is not too long; longer references are cut, without end of turn.

    A reference ends as `turns` says (None: as far as the tokenizer alone says it), with what the template writes
    between an answer and its mark. Raises DraftbenchError for an id beyond the target's `rows` of embeddings
    (None: not known here).
    """
    turns = turns or turns_of(tokenizer)
    encoded = []
    for example in examples:
        prompt_ids = render(tokenizer, example.prompt, context_tokens=None, max_new_tokens=0, rows=rows)
        reference_ids = [
            *token_ids(tokenizer, example.reference + turns.before_end, f"the reference of {example.prompt.id!r}"),
            turns.end,
        ]
        reference_ids = reference_ids[: data.max_reference_tokens]
        check_rows(tokenizer, example.prompt, reference_ids, rows)
        fits = context_tokens is None or len(prompt_ids) + len(reference_ids) <= context_tokens
        if len(prompt_ids) <= data.max_prompt_tokens and fits:
            encoded.append(Encoded(example, prompt_ids, reference_ids))
    return encoded


def ended(tokenizer: Any, example: Example, turns: Turns) -> Example:
    """The example with its reference up to the first end of turn in it, where captures stop as well."""
    said, after = split_at_end(tokenizer, example.reference, turns.ends)
    if said == example.reference:
        return example
    while after.strip() and not (further := split_at_end(tokenizer, after, turns.ends))[0].strip():
        after = further[1]  # a mark is no text
    return replace(example, reference=said.removesuffix(turns.before_end), cut=after.strip())


def example_set(
    tokenizer: Any,
    sources: Sequence[PromptSource],
    data: TuneData,
    *,
    beside: Path | None,
    context_tokens: int | None,
    turns: Turns | None = None,
    rows: int | None = None,
) -> ExampleSet:
    """Read and encode. Raises DraftbenchError if nothing is left."""
    turns = turns or turns_of(tokenizer)
    read, infos, unanswered = read_examples(sources, data, beside)
    examples = []
    for example in (ended(tokenizer, each, turns) for each in read):
        if example.reference.strip():
            examples.append(example)
        elif data.unanswered == "refuse":
            raise _no_reference(example.prompt.id, "a reference with nothing before its end of turn")
        else:
            unanswered += 1
    encoded = encode(tokenizer, examples, data, context_tokens, turns, rows)
    if not encoded:
        context = f", or do not fit the context of {context_tokens}" if context_tokens is not None else ""
        raise DraftbenchError(
            f"none of the {len(examples) + unanswered} records of {', '.join(s.path for s in sources)} can be used",
            f"{unanswered} have no reference, {len(examples)} have prompts over {data.max_prompt_tokens} tokens"
            + context,
            "give records with a 'reference', or raise data.max_prompt_tokens",
        )
    counts = {"without_reference": unanswered, "prompt_too_long": len(examples) - len(encoded)}
    return ExampleSet(encoded, infos, counts | _counts_of(encoded, turns.end))


def _counts_of(encoded: Sequence[Encoded], end: int) -> dict[str, int]:
    """How many examples there are, and of how many references a part is not learnt."""
    return {
        "records": len(encoded),
        "reference_cut": sum(e.reference_ids[-1] != end for e in encoded),
        "reference_past_its_end": sum(bool(e.example.cut) for e in encoded),
    }


def _no_reference(prompt_id: str, held: str) -> DraftbenchError:
    return DraftbenchError(
        f"record {prompt_id!r} has {held}",
        "tuning learns the assistant's reference; without one there is nothing to learn",
        "add a text under 'reference', or leave such records out with --set data.unanswered=leave_out",
    )
