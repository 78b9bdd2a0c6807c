"""A run's best draft as a full Hugging Face folder, checked by loading it again without us."""

from __future__ import annotations

import copy
import shutil
import tempfile
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
from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.measure.acceptance import exact_acceptance
from engine.measure.certificate import texts
from engine.models.draft import Draft
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.served.acceptance import served_acceptance

CARD = "README.md"
MARK = "draftbench"  # a tag of the model card: what is replaced must be an earlier export
_SAME = 1e-4  # of acceptance, a position: rounding in float32, and ids a trimmed draft cannot propose


def write_folder(
    folder: Path, draft: Draft, target: LoadedModel, card: str, *, gamma: int, overwrite: bool = False
) -> None:
    """Config, all weights as safetensors, tokenizer, generation settings and model card.

    The generation settings are bare: what ends an answer of the target, and that assisted generation proposes `gamma`
    tokens at a time, as was measured. The folder appears whole or not at all. An existing one is refused, unless `overwrite` and it
    holds an earlier export.
    """
    refuse_taken(folder, overwrite)
    with disk_errors(folder):
        temporary = _beside(folder)
        try:
            new = temporary / "new"
            new.mkdir()
            draft.model.generation_config = bare.bare_settings(target.model, target.stop_ids)
            draft.model.generation_config.update(**bare.proposing(gamma))
            draft.model.save_pretrained(new)
            target.tokenizer.save_pretrained(new)
            (new / CARD).write_text(card, encoding="utf-8")
            for file in new.iterdir():
                file.chmod(0o644)  # safetensors writes for the owner alone; a server often is another user
            if folder.exists():
                folder.rename(temporary / "old")
            new.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _beside(folder: Path) -> Path:
    """A temporary folder on the same disk, so that what it holds can be renamed to `folder`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        raise DraftbenchError(
            f"cannot make {folder}: {error.strerror}", f"{folder.parent} is no folder", "choose another --out"
        ) from error


def refuse_taken(folder: Path, overwrite: bool) -> None:
    """Raise DraftbenchError if an export to `folder` would destroy something."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    card = folder / CARD
    earlier = card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace")
    if not (earlier and (folder / "config.json").is_file()):
        raise DraftbenchError(
            f"{folder} holds something that is no export of Draftbench",
            "an export replaces the whole folder",
            "choose another --out",
        )
    if not overwrite:
        raise DraftbenchError(
            f"{folder} is not empty", "an export replaces what is there", "choose another --out, or add --overwrite"
        )


def load_plain(folder: Path, dtype: torch.dtype, device: torch.device, *, remote_code: bool = False) -> Any:
    """The exported model, loaded by Transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=remote_code).to(device).eval()


@dataclass(frozen=True)
class Checked:
    """The run's draft and the exported folder on the same text of one temperature.

    `draft`, `exported`: `exact` acceptance; `difference`: mean over the positions of how far the two are apart there.
    """

    temperature: float
    draft: float
    exported: float
    difference: float
    n_prompts: int
    n_tokens: int

    @property
    def same(self) -> bool:
        """Whether the folder is the draft, as far as this text shows."""
        return self.difference <= _SAME


def paired_acceptance(
    folder: Path,
    draft: Draft,
    target: LoadedModel,
    captures: dict[float, Capture],
    prompt_ids: Sequence[str],
    settings: MeasureSpec,
) -> list[Checked]:
    """The draft and the exported folder, loaded by Transformers alone, at the same positions of the same captures.

    Both with the weights they are served with, computed in float32: in bfloat16 the likeliest token of a trimmed head
    and of the whole one made of it differ wherever two logits round to the same number, 2 of 832 tokens of a sample.
    """
    remote = target.spec.trust_remote_code
    models = (
        copy.deepcopy(draft.model).float(),
        load_plain(folder, target.dtype, target.device, remote_code=remote).float(),
    )
    chosen = set(prompt_ids)
    checked = []
    for temperature, capture in captures.items():
        answers = [a for a in capture.answers if a.prompt_id in chosen]

        def overlaps(model: Any, at: float = temperature, on: Capture = capture, of: Any = answers) -> torch.Tensor:
            if settings.against == "server":
                found = served_acceptance(model, on, at, target.vocab_rows, of)
            else:
                sampling = Sampling(at, settings.top_k, settings.top_p)
                found = exact_acceptance(model, Head.of(target.model), on, sampling, of)
            return torch.cat([result.overlap for result in found]).double()

        ours, theirs = (overlaps(model) for model in models)
        apart = float((ours - theirs).abs().mean())
        checked.append(Checked(temperature, float(ours.mean()), float(theirs.mean()), apart, len(answers), len(ours)))
    return checked


@torch.no_grad()
def same_greedy_text(
    folder: Path, target_float32: LoadedModel, prompts: Sequence[Sequence[int]], *, gamma: int, max_new_tokens: int
) -> list[bool]:
    """Whether Transformers' assisted generation writes what our loop writes, a prompt each, in float32."""
    target = target_float32.model
    remote = target_float32.spec.trust_remote_code
    draft = load_plain(folder, torch.float32, target_float32.device, remote_code=remote)
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
