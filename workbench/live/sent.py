"""What the target would read: the conversation through its chat template, before anything is decoded.

It needs the target's tokenizer alone, so it is there before the weights are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from engine.chat.prompt import Prompt
from engine.errors import DraftbenchError
from engine.paths import Home
from engine.runs.folder import RunFolder
from workbench.live.decode import check_room
from workbench.live.drafts import target_key


@dataclass(frozen=True)
class Sent:
    """The prompt as text and ids, how many tokens the target reads at most, what its template
    leaves out, and what it writes in another place or form."""

    target: str
    text: str
    ids: tuple[int, ...]
    context_tokens: int | None
    unused: list[str]
    rewritten: list[str]


def prompt_of(home: Home, conversation: Prompt, run_id: str, max_new_tokens: int) -> Sent:
    """The prompt that the run's target reads. Raises DraftbenchError if it cannot be sent."""
    from engine.chat.rendering import prompt_text, render
    from engine.chat.unwritten import rewritten, unused

    if not run_id:
        raise DraftbenchError("no draft is selected", "its target's template writes the prompt", "select a draft")
    run = RunFolder.open(home, run_id)
    tokenizer, context = _tokenizer(target_key(run))
    ids = render(tokenizer, conversation, context_tokens=None, max_new_tokens=0)
    check_room(len(ids), context, max_new_tokens)
    text = prompt_text(tokenizer, conversation)
    left_out, moved = unused(tokenizer, conversation), rewritten(tokenizer, conversation)
    return Sent(run.recipe().target.label, text, tuple(ids), context, left_out, moved)


@lru_cache(maxsize=4)
def _tokenizer(key: str) -> tuple[Any, int | None]:
    """Tokenizer and context of a target, by its settings as JSON."""
    from engine.config.schema import ModelSpec
    from engine.models.load import context_tokens, load_tokenizer

    spec = ModelSpec.model_validate_json(key)
    return load_tokenizer(spec), context_tokens(spec)
