"""A run's draft and its target in the form that a server loads, in a folder for the time of one measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from engine.catalogue import SERVERS
from engine.errors import DraftbenchError
from engine.export.gguf import draft_file
from engine.export.gguf_file import export_gguf
from engine.export.of_run import export_run
from engine.models.load import LoadedModel
from engine.models.locate import gguf_source
from engine.paths import Home
from engine.runs.folder import RunFolder


@dataclass(frozen=True)
class ExportedPair:
    """Where target and draft lie, and what was changed on the way."""

    target: Path
    draft: Path
    notes: tuple[str, ...] = ()


def exported_pair(home: Home, run: RunFolder, target: LoadedModel, server: str, folder: Path) -> ExportedPair:
    """Write both to `folder`. An adapter is merged into the target, a draft of fewer ids gets all of them.

    Raises DraftbenchError for a target that the server could not compute as it is computed here.
    """
    if target.spec.quantize is not None:
        raise DraftbenchError(
            f"the target's weights are rounded to {target.spec.quantize} while it is loaded",
            f"{server} would serve the weights as they were before, or rounded otherwise: another target",
            "measure a run whose target has no target.quantize",
        )
    form = SERVERS[server].weights
    write = _FORMS[form]
    report = export_run(home, run, folder / "draft", overwrite=False, check=False)
    if form == "gguf":
        import torch
        from engine.export.huggingface import load

        export_gguf(
            folder / "draft" / "draft-f16.gguf",
            load(folder / "draft", torch.float32, torch.device("cpu")),
            target.tokenizer,
            precision="f16",
            tokenizer_source=gguf_source(target.spec),
            stop_ids=target.stop_ids,
        )
    return write(target, folder, tuple(report["notes"]))


def _gguf(target: LoadedModel, folder: Path, notes: tuple[str, ...]) -> ExportedPair:
    written = export_gguf(
        folder / "target-f16.gguf",
        target.model,
        target.tokenizer,
        precision="f16",
        name="target",
        tokenizer_source=gguf_source(target.spec),
        stop_ids=target.stop_ids,
    )
    return ExportedPair(
        written.path, draft_file(folder / "draft"), (*notes, *written.notes, "target and draft are served in float16")
    )


def _huggingface(target: LoadedModel, folder: Path, notes: tuple[str, ...]) -> ExportedPair:
    """The model's own files with the adapter merged. A tied head is stored once, as its configuration says."""
    place = folder / "target"
    place.mkdir()
    weights = {name: weight.detach().contiguous().cpu() for name, weight in target.model.named_parameters()}
    target.model.config.save_pretrained(place)
    target.model.generation_config.save_pretrained(place)
    target.tokenizer.save_pretrained(place)
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return ExportedPair(place, folder / "draft", notes)


_FORMS: dict[str, Callable[[LoadedModel, Path, tuple[str, ...]], ExportedPair]] = {
    "gguf": _gguf,
    "huggingface": _huggingface,
}
