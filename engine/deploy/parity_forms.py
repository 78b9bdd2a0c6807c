"""A run's draft and its target in the form that a server loads, in a folder for the time of one measurement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.catalogue import SERVERS
from engine.errors import DraftbenchError
from engine.export.export_run import export_run
from engine.export.for_server import Wishes
from engine.export.gguf import draft_file
from engine.models.load import LoadedModel
from engine.paths import Home
from engine.runs.folder import RunFolder


@dataclass(frozen=True)
class ExportedPair:
    """Where target and draft lie, and what was changed on the way."""

    target: Path
    draft: Path
    notes: tuple[str, ...] = ()


def exported_pair(
    home: Home, run: RunFolder, target: LoadedModel, server: str, gamma: int, folder: Path
) -> ExportedPair:
    """Write both to `folder`. An adapter is merged into the target, a draft of fewer ids gets all of them.

    Raises DraftbenchError if the server would refuse the pair, and for a target that it could not compute as it is
    computed here.
    """
    if target.spec.quantize is not None:
        raise DraftbenchError(
            f"the target's weights are rounded to {target.spec.quantize} while it is loaded",
            f"{server} would serve the weights as they were before, or rounded otherwise: another target",
            "measure a run whose target has no target.quantize",
        )
    wishes = Wishes(server=server, gamma=gamma, target="merged")
    report = export_run(home, run, folder, overwrite=True, check=False, wishes=wishes)
    gguf = SERVERS[server].weights == "gguf"
    notes = [*report["notes"], *(["target and draft are served in float16"] if gguf else [])]
    if gguf:
        return ExportedPair(folder / "target-f16.gguf", draft_file(folder), tuple(notes))
    return ExportedPair(folder / "target", folder, tuple(notes))
