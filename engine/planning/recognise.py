"""What a name of a model stands for: a folder, a GGUF file, a packaged model, one on the hub, or a server's address.

Weights are not read, nothing is fetched, and code that ships with a model is not run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.config.reading import parse_section
from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.models.head import check_head_outline, text_config
from engine.models.load import load_tokenizer
from engine.numbers import readable_bytes
from engine.planning.fitness import check_decodable
from engine.planning.outlines import at_hand, needs_own_code, own_code_is_needed, target_shapes, target_sizes

Kind = Literal["folder", "GGUF file", "packaged model", "hub model", "server"]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Recognised:
    """`model`: as a recipe names it. `words`: what is known of it without its weights. `here`: nothing is fetched."""

    kind: Kind
    model: str
    words: str
    here: bool = True
    layers: int | None = None
    ids: int | None = None
    """Rows of its vocabulary; None where it was not looked at."""


def recognise(name: str) -> Recognised:
    """What `name` stands for. Raises DraftbenchError for nothing, and for a model that cannot be a target."""
    name = name.strip()
    if re.match(r"https?://", name):
        return Recognised("server", name, "a server that answers for a model", here=False)
    if not name.startswith(("hub:", "asset:")) and not Path(name).expanduser().exists() and _HUB_NAME.fullmatch(name):
        name = f"hub:{name}"
    spec = parse_section(ModelSpec, {"model": name})
    kind: Kind = "folder"
    if name.startswith("hub:"):
        kind = "hub model"
    elif name.startswith("asset:"):
        kind = "packaged model"
    elif name.endswith(".gguf"):
        kind = "GGUF file"
    if at_hand(spec) is None:
        return Recognised(kind, name, "not on this machine yet: it is fetched when a run begins", here=False)
    if needs_own_code(spec):
        raise own_code_is_needed(name)
    shapes = target_shapes(spec)
    check_head_outline(shapes)
    check_decodable(shapes)
    if not load_tokenizer(spec).chat_template:
        raise DraftbenchError(
            f"{name} has no chat template",
            "prompts are rendered as the model was trained to read them",
            "put chat_template.jinja beside its tokenizer, or use the instruction-tuned model",
        )
    count = sum(p.numel() for p in shapes.parameters())
    config = text_config(shapes)
    size = readable_bytes(target_sizes(spec, shapes).total)
    words = f"{type(shapes).__name__}, {config.num_hidden_layers} layers, {count:,} parameters, {size} in memory"
    ids = int(shapes.get_input_embeddings().weight.shape[0])
    return Recognised(kind, name, f"{words}; its own chat template", True, int(config.num_hidden_layers), ids)
