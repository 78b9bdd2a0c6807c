"""Decoding one prompt for the eye: the rounds as they come, and the figures at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.chat.prompt import Prompt
from engine.chat.rendering import render
from engine.decode.counts import count, share_of
from engine.decode.events import Round
from engine.decode.settings import DecodeSettings
from engine.decode.speculative import speculative_decode
from engine.decode.text import TextStream, text_of
from engine.errors import DraftbenchError
from engine.models.context import refuse_beyond_draft
from engine.models.draft import Draft
from engine.models.load import LoadedModel
from engine.numbers import number

_ALTERNATIVES = 5  # likeliest tokens of either model noted at each position


@dataclass
class PromptDecoding:
    """A rendered prompt to decode with some models; without a draft it is decoded plainly.

    `seconds` are those of the rounds, as in the live view: what is done with a round meanwhile, such as printing it
    into a pipe that somebody reads page by page, is not decoding.
    """

    target: LoadedModel
    draft: Draft | None
    draft_name: str | None
    prompt_ids: list[int]
    settings: DecodeSettings
    decoded: list[Round] = field(default_factory=list)

    def rounds(self) -> Iterator[Round]:
        """Decode once; the rounds come as they end and are kept in `decoded`."""
        target, draft = self.target.model, None if self.draft is None else self.draft.model
        for item in speculative_decode(target, draft, [self.prompt_ids], self.settings, alternatives=_ALTERNATIVES):
            self.decoded.append(item)
            yield item

    @property
    def seconds(self) -> float:
        return sum(item.seconds for item in self.decoded)

    def figures(self) -> str:
        """One line of figures about what was decoded."""
        counts = count(self.decoded)
        tokens = f"{counts.emitted} token{'' if counts.emitted == 1 else 's'}"
        speed = f"{tokens} in {self.seconds:.2f} s = {number(share_of(counts.emitted, self.seconds), 1)} tokens/s"
        if self.draft is None:
            return speed
        rates = counts.rates()
        return (
            f"{speed}; accepted {counts.accepted} of {counts.drafted} proposed ({number(rates['per_proposed'], 2)}), "
            f"per_examined {number(rates['per_examined'], 2)}, tau {number(rates['tau'], 2)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Decode, and return text, settings, figures and every round, for `--json`."""
        rounds = list(map(TextStream(self.target.tokenizer).read, self.rounds()))
        counts = count(self.decoded)
        return {
            "text": text_of(rounds),
            "settings": {
                "target": self.target.spec.model,
                "draft": self.draft_name,
                "num_draft_tokens": 0 if self.draft is None else self.settings.length.next(),
                **asdict(self.settings.sampling),
                "proposals": self.settings.proposals,
                "max_new_tokens": self.settings.max_new_tokens,
                "seed": self.settings.seed,
                "dtype": self.target.dtype_name,
                "quantize": self.target.weights,
                "device": str(self.target.device),
            },
            "seconds": self.seconds,
            **asdict(counts),
            **counts.rates(),
            "rounds": [asdict(item) for item in rounds],
        }


def question(text: str) -> Prompt:
    """A prompt of one user message; raises DraftbenchError if there is nothing in it."""
    if not text.strip():
        raise DraftbenchError("the prompt is empty", "there is nothing to answer", "for example --prompt 'Why?'")
    return Prompt("prompt", ({"role": "user", "content": text},))


def decode_prompt(
    target: LoadedModel, draft: Draft | None, prompt: Prompt, settings: DecodeSettings, *, draft_name: str | None = None
) -> PromptDecoding:
    """Render a prompt for its decoding. `draft_name` is what the report calls the draft.

    Raises DraftbenchError if the context of the target, or of the draft, has no room for the answer.
    """
    ids = render(
        target.tokenizer,
        prompt,
        context_tokens=target.context_tokens,
        max_new_tokens=settings.max_new_tokens,
        rows=target.input_rows,
    )
    if draft is not None:
        refuse_beyond_draft(draft.model, [(prompt.id, len(ids) + settings.max_new_tokens)])
    return PromptDecoding(target, draft, draft_name, ids, settings)
