"""A run's best draft as a full Hugging Face folder, checked by loading it again without us."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.capture.store import Capture
from engine.config import MeasureSpec
from engine.decode.sampling import Sampling
from engine.decode.speculative import FixedLength, speculative_decode
from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.measure.acceptance import exact_acceptance, mean_overlap
from engine.measure.lossless import texts
from engine.measure.served_text import served_acceptance
from engine.models.draft import Draft
from engine.models.head import Head
from engine.models.load import LoadedModel

CARD = "README.md"
MARK = "draftbench"  # a tag of the model card: what is replaced must be an earlier export


def write_folder(folder: Path, draft: Draft, target: LoadedModel, card: str, *, overwrite: bool = False) -> None:
    """Config, all weights as safetensors, tokenizer, generation settings and model card.

    The folder appears whole or not at all. An existing one is refused, unless `overwrite` and it
    holds an earlier export.
    """
    refuse_taken(folder, overwrite)
    with disk_errors(folder):
        temporary = _beside(folder)
        try:
            new = temporary / "new"
            new.mkdir()
            draft.model.generation_config = target.model.generation_config
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


def load_plain(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The exported model, loaded by Transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()


def acceptance_again(
    folder: Path, target: LoadedModel, captures: dict[float, Capture], prompt_ids: Sequence[str], settings: MeasureSpec
) -> dict[float, float]:
    """`exact` acceptance of the exported folder on the prompts the run was measured on, by temperature."""
    model = load_plain(folder, target.dtype, target.device)
    chosen = set(prompt_ids)
    again = {}
    for temperature, capture in captures.items():
        answers = [a for a in capture.answers if a.prompt_id in chosen]
        if settings.against == "server":
            found = served_acceptance(model, capture, temperature, target.vocab_rows, answers)
        else:
            sampling = Sampling(temperature, settings.top_k, settings.top_p)
            found = exact_acceptance(model, Head.of(target.model), capture, sampling, answers)
        again[temperature] = mean_overlap(found)
    return again


@torch.no_grad()
def same_greedy_text(
    folder: Path, target_float32: LoadedModel, prompts: Sequence[Sequence[int]], *, gamma: int, max_new_tokens: int
) -> list[bool]:
    """Whether Transformers' assisted generation writes what our loop writes, a prompt each, in float32."""
    target = target_float32.model
    draft = load_plain(folder, torch.float32, target_float32.device)
    same = []
    for ids in prompts:
        ours = texts(
            list(
                speculative_decode(
                    target,
                    draft,
                    [ids],
                    Sampling(0.0),
                    length=FixedLength(gamma),
                    max_new_tokens=max_new_tokens,
                    stop_ids=target_float32.stop_ids,
                    seed=0,
                )
            ),
            1,
        )[0]
        prompt = torch.tensor([list(ids)], device=target_float32.device)
        theirs = target.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            assistant_model=draft,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(target_float32.stop_ids),
            pad_token_id=min(target_float32.stop_ids, default=0),
        )
        same.append(theirs[0, len(ids) :].tolist() == ours)
    return same
