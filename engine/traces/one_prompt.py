"""Decoding one prompt for the eye: the rounds as they come, and the figures at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.chat.prompt import Prompt
from engine.chat.rendering import render
from engine.config.schema import DEFAULT_TARGET, ModelSpec
from engine.decode.events import Round
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from engine.decode.text import TextStream
from engine.errors import DraftbenchError
from engine.measure.trace import count
from engine.models.draft import Draft, DraftInfo, load_draft
from engine.models.head import check_head
from engine.models.load import LoadedModel, load_model
from engine.models.vocabulary import check_vocabulary
from engine.numbers import number
from engine.paths import Home
from engine.runs.advice import best_draft
from engine.runs.drafts import draft_folder
from engine.runs.folder import RunFolder


@dataclass
class Decoding:
    """A prompt about to be decoded. `rounds` decodes once and remembers what came."""

    target: LoadedModel
    draft: Draft | None
    prompt_ids: list[int]
    sampling: Sampling
    gamma: int
    max_new_tokens: int
    seed: int
    draft_name: str | None = None
    seen: list[Round] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tokenizer(self) -> Any:
        return self.target.tokenizer

    @property
    def speculative(self) -> bool:
        return self.draft is not None

    def rounds(self) -> Iterator[Round]:
        """The rounds, as they come."""
        began = time.perf_counter()
        for item in speculative_decode(
            self.target.model,
            self.draft.model if self.draft else None,
            [self.prompt_ids],
            DecodeSettings(
                self.sampling, FixedLength(self.gamma), self.max_new_tokens, self.target.stop_ids, self.seed
            ),
            alternatives=5,
        ):
            self.seen.append(item)
            yield item
        self.seconds = time.perf_counter() - began

    def told(self) -> str:
        """One line of figures about what was decoded."""
        counts = count(self.seen)
        speed = f"{counts.emitted} tokens in {self.seconds:.2f} s = {counts.emitted / self.seconds:.1f} tokens/s"
        if self.draft is None:
            return speed
        rates = counts.rates()
        return (
            f"{speed}; accepted {counts.accepted} of {counts.drafted} proposed ({number(rates['per_proposed'], 2)}), "
            f"per_examined {number(rates['per_examined'], 2)}, tau {number(rates['tau'], 2)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Text, settings, figures and every round, for `--json`."""
        rounds = [asdict(item) for item in self.rounds()]
        stream = TextStream(self.tokenizer)
        text = "".join(stream.emit(token) for item in self.seen for token in item.emitted) + stream.finish()
        counts = count(self.seen)
        return {
            "text": text,
            "settings": self.settings(),
            "seconds": self.seconds,
            **asdict(counts),
            **counts.rates(),
            "rounds": rounds,
        }

    def settings(self) -> dict[str, Any]:
        """What the answer depends on."""
        return {
            "target": self.target.spec.model,
            "draft": self.draft_name,
            "num_draft_tokens": self.gamma if self.draft else 0,
            **asdict(self.sampling),
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "dtype": self.target.dtype_name,
            "device": str(self.target.device),
        }


def decode_prompt(
    home: Home,
    prompt: str,
    *,
    run_id: str | None,
    target: str | None,
    draft: str | None,
    gamma: int,
    temperature: float,
    top_p: float,
    top_k: int,
    max_new_tokens: int,
    seed: int,
    dtype: str,
) -> Decoding:
    """Load what is named (a run's pair, or a target and perhaps a draft) and render the prompt."""
    wanted = None if dtype == "auto" else dtype
    if not prompt.strip():
        raise DraftbenchError("the prompt is empty", "there is nothing to answer", "for example --prompt 'Why?'")
    drafted: Draft | None
    if run_id is not None:
        if target or draft:
            raise DraftbenchError(
                "--run does not go together with --target or --draft",
                "a run names its own pair",
                "leave --run out, and give the run as --draft for another target",
            )
        run = RunFolder.open(home, run_id)
        best = best_draft(run)
        loaded = load_model(run.recipe().target, dtype=wanted)
        drafted, draft = load_draft(best, loaded), run.id
    else:
        loaded = load_model(ModelSpec(model=target or DEFAULT_TARGET), dtype=wanted)
        drafted = _named_draft(home, draft, loaded)
    check_head(loaded.model)
    question = Prompt("prompt", ({"role": "user", "content": prompt},))
    ids = render(
        loaded.tokenizer,
        question,
        context_tokens=loaded.context_tokens,
        max_new_tokens=max_new_tokens,
        rows=loaded.input_rows,
    )
    return Decoding(loaded, drafted, ids, Sampling(temperature, top_k, top_p), gamma, max_new_tokens, seed, draft)


def _named_draft(home: Home, name: str | None, target: LoadedModel) -> Draft | None:
    """A draft given as a run id, a draft folder or any model that shares the target's vocabulary."""
    if name is None:
        return None
    folder = draft_folder(home, name)
    if folder is not None:
        return load_draft(folder, target)
    other = load_model(ModelSpec(model=name, device=str(target.device)), dtype=target.dtype_name)
    check_vocabulary(target.tokenizer, other.tokenizer)
    check_head(other.model)
    return Draft(other.model, DraftInfo(target.fingerprint, False, name, []))
