"""Checking prompt files against a target before anything is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from engine.chat.marks import marks_in
from engine.chat.rendering import render
from engine.chat.unwritten import unwritten
from engine.config.reading import parse_section
from engine.config.schema import ModelSpec, PromptSource
from engine.data.overlap import repeats_in_context
from engine.data.readers import PromptSet, read_prompts
from engine.models.context import context_of
from engine.models.folder import outline
from engine.models.load import load_tokenizer
from engine.models.locate import locate_model


def count_prompts(files: Sequence[str], *, skip_bad: bool) -> dict[str, Any]:
    """Counts that need no target, for one that is not here: prompts, tools, repeats, groups, and bad rows."""
    return _counts(_read(files, skip_bad, {}))


def check_prompts(
    files: Sequence[str], target: str, *, skip_bad: bool, columns: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Counts of the prompts in `files`: groups, tools, repeats, tokens under the target's template, bad rows.

    `columns`: settings of a `PromptSource`, such as `messages_column`. `unwritten`: a line per kind of part that the
    target's template leaves out. `marks`: a line per mark of that template which prompts hold as text. `too_long`
    counts prompts that fill the target's context, so that no token of an answer fits. Raises DraftbenchError for a
    prompt that cannot be rendered, or holds an id that the target has no embedding for.
    """
    prompt_set = _read(files, skip_bad, columns or {})
    spec = parse_section(ModelSpec, {"model": target})
    tokenizer, shapes = load_tokenizer(spec), outline(locate_model(spec), torch.float32)
    context = context_of(shapes.config)
    rows = int(shapes.get_input_embeddings().weight.shape[0])
    lengths = sorted(
        len(render(tokenizer, prompt, context_tokens=None, max_new_tokens=0, rows=rows))
        for prompt in prompt_set.prompts
    )
    return {
        **_counts(prompt_set),
        "too_long": sum(length >= context for length in lengths) if context else 0,
        "context_tokens": context,
        "unwritten": unwritten(tokenizer, prompt_set.prompts).in_words(),
        "marks": marks_in(tokenizer, prompt_set.prompts),
        "tokens": {"least": lengths[0], "median": lengths[len(lengths) // 2], "most": lengths[-1]},
    }


def _read(files: Sequence[str], skip_bad: bool, columns: Mapping[str, str]) -> PromptSet:
    return read_prompts([parse_section(PromptSource, {"path": name, **columns}) for name in files], skip_bad=skip_bad)


def _counts(prompt_set: PromptSet) -> dict[str, Any]:
    return {
        "prompts": len(prompt_set.prompts),
        "bad_rows": [asdict(row) for row in prompt_set.bad],
        "with_tools": sum(bool(prompt.tools) for prompt in prompt_set.prompts),
        "repeated": len(repeats_in_context(prompt_set.prompts)),
        "groups": dict(Counter(prompt.group or "-" for prompt in prompt_set.prompts)),
        "sources": list(prompt_set.sources),
    }
