"""Looking at prompts before anything is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from engine.chat.rendering import render
from engine.config.reading import parse_section
from engine.config.schema import ModelSpec, PromptSource
from engine.data.overlap import duplicates_within
from engine.data.readers import read_prompts
from engine.models.load import context_tokens, load_tokenizer


def check_prompts(files: Sequence[str], target: str, *, skip_bad: bool) -> dict[str, Any]:
    """Counts of the prompts in `files`: groups, tools, repeats, tokens under the target's template, bad rows.

    `too_long` counts prompts that fill the target's context, so that no token of an answer fits.
    """
    found = read_prompts([parse_section(PromptSource, {"path": name}) for name in files], skip_bad=skip_bad)
    spec = parse_section(ModelSpec, {"model": target})
    tokenizer, context = load_tokenizer(spec), context_tokens(spec)
    lengths = sorted(len(render(tokenizer, p, context_tokens=None, max_new_tokens=0)) for p in found.prompts)
    return {
        "prompts": len(found.prompts),
        "bad_rows": [asdict(row) for row in found.bad],
        "with_tools": sum(bool(prompt.tools) for prompt in found.prompts),
        "repeated": len(duplicates_within(found.prompts)),
        "too_long": sum(length >= context for length in lengths) if context else 0,
        "context_tokens": context,
        "tokens": {"least": lengths[0], "median": lengths[len(lengths) // 2], "most": lengths[-1]},
        "groups": dict(Counter(prompt.group or "-" for prompt in found.prompts)),
        "sources": list(found.sources),
    }
