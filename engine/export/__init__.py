"""Export: a trained draft for use elsewhere.

export_run        export a run's draft and check the result
huggingface       the Hugging Face folder
gguf              the GGUF file, and reading it back with Transformers
gguf_file         a model as a GGUF file
gguf_tokenizer    its tokenizer as metadata of that file
gguf_quantise     4 bits, by llama.cpp's own program
for_server        an export for a server: preflight, target and start command beside the weights
facts             what a server asks of the two models
preflight         would the server take the pair?
server_rules      the rules of each server
tensor_parallel   what the devices that share a pair must be able to divide
finding           what is wrong with a pair for a server
start_command     the command that starts each server
apart             a draft that is an adapter, apart from the shared draft
steps             the steps, as whoever waits reads them
folder            the folder appears complete or not at all, and replaces only an earlier export
check             does the exported folder measure like the run's draft?
check_text        the text that this is measured on
model_card        the model card
whole_vocabulary  a draft with as many rows as its target
small_draft       a checkpoint small enough to share

A format of the catalogue is a file here, named after it, with `write` and `load`; the folder, the model card and the
check are the same for all.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from engine.catalogue import EXPORTERS
from engine.errors import DraftbenchError, did_you_mean

if TYPE_CHECKING:
    import torch

    from engine.models.draft import Draft
    from engine.models.load import LoadedModel


class Load(Protocol):
    """Loads an exported folder as a causal language model, without the code that trained it."""

    def __call__(self, folder: Path, dtype: torch.dtype, device: torch.device, *, remote_code: bool = False) -> Any: ...


class Exporter(Protocol):
    """The contents of an exported format."""

    load: Load

    def write(self, folder: Path, draft: Draft, target: LoadedModel, *, gamma: int) -> list[str] | None:
        """Write the draft, which has all of its target's ids, into an empty folder.

        Returns what the format could not hold as it is, in sentences. A format whose card has `precisions` also takes
        the keyword `precision`.
        """
        ...


def exporter(name: str) -> Exporter:
    """The format of that name. Raises DraftbenchError for a name that is not in the catalogue."""
    if name not in EXPORTERS:
        raise DraftbenchError(
            f"unknown export format {name!r}", "it is not in the catalogue", did_you_mean(name, EXPORTERS)
        )
    return cast(Exporter, importlib.import_module(f"{__name__}.{name}"))
