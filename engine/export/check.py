"""Check that an exported folder is the run's draft: Transformers loads it, and both are measured on the same text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.capture.store import Capture
from engine.config.schema import MeasureSpec
from engine.decode import bare
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from engine.export import Load
from engine.measure.acceptance import exact_acceptance
from engine.measure.certificate import texts
from engine.models.draft import Draft
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.served.acceptance import served_acceptance

# Of acceptance, mean over the positions, by how the weights are rounded. Unrounded: rounding in float32, and ids that a
# trimmed draft cannot propose. The others are several times what a sample's draft shows (docs/decisions.md).
ALLOWED = {"": 1e-4, "f32": 1e-4, "f16": 1e-3, "bf16": 2e-2, "q8_0": 5e-2, "q4_k_m": 0.2}


@dataclass(frozen=True)
class Checked:
    """The run's draft and the exported folder on the same text of one temperature.

    `draft`, `exported`: `exact` acceptance; `difference`: mean over the positions of how far the two are apart there,
    of which `allowed` is put down to rounding.
    """

    temperature: float
    draft: float
    exported: float
    difference: float
    n_prompts: int
    n_tokens: int
    allowed: float = ALLOWED[""]

    @property
    def same(self) -> bool:
        """The folder is the draft, as far as this text shows."""
        return self.difference <= self.allowed


def paired_acceptance(
    load: Load,
    folder: Path,
    draft: Draft,
    target: LoadedModel,
    captures: dict[float, Capture],
    prompt_ids: Sequence[str],
    settings: MeasureSpec,
    allowed: float = ALLOWED[""],
) -> list[Checked]:
    """The draft and the exported folder, loaded by `load`, at the same positions of the same captures.

    Both with the weights they are served with, computed in float32: in bfloat16 the likeliest token of a trimmed head
    and of the whole one made of it differ wherever two logits round to the same number, 2 of 832 tokens of a sample.
    """
    remote = target.spec.trust_remote_code
    models = (
        copy.deepcopy(draft.model).float(),
        load(folder, torch.float32, target.device, remote_code=remote),
    )
    asked = set(prompt_ids)
    checked = []
    for temperature, capture in captures.items():
        answers = [a for a in capture.answers if a.prompt_id in asked]

        def overlaps(model: Any, at: float = temperature, on: Capture = capture, of: Any = answers) -> torch.Tensor:
            if settings.against == "server":
                results = served_acceptance(model, on, at, target.vocab_rows, of)
            else:
                sampling = Sampling(at, settings.top_k, settings.top_p)
                results = exact_acceptance(model, Head.of(target.model), on, sampling, of)
            return torch.cat([result.overlap for result in results]).double()

        ours, theirs = (overlaps(model) for model in models)
        apart = float((ours - theirs).abs().mean())
        rates = float(ours.mean()), float(theirs.mean())
        checked.append(Checked(temperature, *rates, apart, len(answers), len(ours), allowed))
    return checked


@torch.no_grad()
def same_greedy_text(
    load: Load,
    folder: Path,
    target_float32: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    gamma: int,
    max_new_tokens: int,
) -> list[bool]:
    """Return for each prompt whether assisted generation writes the text of our loop, in float32."""
    target = target_float32.model
    remote = target_float32.spec.trust_remote_code
    draft = load(folder, torch.float32, target_float32.device, remote_code=remote)
    settings = DecodeSettings(Sampling(0.0), FixedLength(gamma), max_new_tokens, target_float32.stop_ids)
    same = []
    for ids in prompts:
        ours = texts(speculative_decode(target, draft, [ids], settings), 1)[0]
        theirs = bare.generate(
            target,
            ids,
            settings.sampling,
            max_new_tokens=max_new_tokens,
            seed=settings.seed,
            stop_ids=settings.stop_ids,
            assistant=draft,
            num_draft_tokens=gamma,
        )
        same.append(theirs == ours)
    return same
