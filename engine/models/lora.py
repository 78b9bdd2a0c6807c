"""A LoRA adapter on a model: where it fits, its weights in float32, merged into the model, and as PEFT keeps it.

A draft with an adapter is a plain model whose adapted weights hold W + (alpha / rank) B A, in float32 as long as it is
trained. So everything that decodes, measures or exports it needs to know nothing of adapters, and computes what a
served draft computes. Training passes alone run through a copy with PEFT's layers inside (`Lora.training_copy`): there
no gradient of a whole weight is ever made.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.config.lora import SHARED_FOLDER, DraftLoraSpec, LoraSpec
from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import read_object, write_atomic, write_json
from engine.models.adapter import CONFIG, WEIGHTS
from engine.models.precision import cast
from engine.paths import PROJECT_ROOT

_DOWN, _UP = "lora_A.weight", "lora_B.weight"  # A: [rank, in], B: [out, rank], in PEFT's names
_PROBE_IDS = 24
# Largest difference of the merged model's logits from those with the update beside the weights, as a share of the
# largest logit, in float32: each weight is rounded once more, by 2^-24 of its size. A wrong merge is off by far more.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter on a shared draft needs to be merged again, or refused for another draft."""

    rank: int
    alpha: float
    modules: list[str]
    shared_sha256: str
    """Hash of the shared draft's weights."""
    shared_name: str = ""
    """What the recipe called the shared draft."""

    @property
    def scale(self) -> float:
        """Factor of an update B A."""
        return self.alpha / self.rank


def adapted_layers(model: Any, modules: Sequence[str], *, key: str) -> dict[str, torch.nn.Linear]:
    """The linear layers of these names by their place in the model, which may be on the meta device.

    Raises DraftbenchError, naming the recipe's `key`, if no linear layer has one of the names, or if it is one of the
    embeddings or the output head, which target and draft have in common.
    """
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "." in n}
    adapted = {n: m for n, m in linear.items() if n.rpartition(".")[2] in modules}
    for name in modules:
        if not any(place.rpartition(".")[2] == name for place in adapted):
            raise DraftbenchError(
                f"the model has no linear layers called {name!r}",
                "the adapter would leave out what the recipe says it changes",
                f"correct {key}; {did_you_mean(name, {place.rpartition('.')[2] for place in linear})}",
            )
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    for place, layer in adapted.items():
        if any(layer is end or layer.weight is getattr(end, "weight", None) for end in ends):
            raise DraftbenchError(
                f"{place} is an end of the model, which target and draft have in common",
                "an adapter on it would change the other one, and two tensors if they are tied",
                f"leave {place.rpartition('.')[2]} out of {key}",
            )
    return adapted


def adapter_size(model: Any, spec: LoraSpec) -> int:
    """The number of an adapter's weights for a model, which may be on the meta device."""
    layers = adapted_layers(model, spec.modules, key="draft.lora.modules").values()
    return sum(spec.rank * (layer.in_features + layer.out_features) for layer in layers)


class Lora:
    """An adapter and the float32 model that it is merged into.

    `parameters`: its weights by name, float32; `layers`: those that it changes, by their place in the model, which
    holds the merged weights since the last `merge`; `dropout`: of its training passes.
    """

    def __init__(
        self, model: Any, info: AdapterInfo, weights: Mapping[str, torch.Tensor], dropout: float = 0.0
    ) -> None:
        self.model, self.info, self.dropout = model, info, dropout
        self.layers = adapted_layers(model, info.modules, key="draft.lora.modules")
        self._plain = {place: layer.weight.detach().clone() for place, layer in self.layers.items()}
        self.parameters = {
            name: torch.nn.Parameter(weights[name].to(model.device, torch.float32), requires_grad=True)
            for place in self.layers
            for name in (f"{place}.{_DOWN}", f"{place}.{_UP}")
        }

    @property
    def size(self) -> int:
        """The number of its weights."""
        return sum(p.numel() for p in self.parameters.values())

    def state(self) -> dict[str, torch.Tensor]:
        """Its weights by name, as they are kept."""
        return {name: p.detach() for name, p in self.parameters.items()}

    @torch.no_grad()
    def merge(self) -> None:
        """Give the model's adapted weights the values W + (alpha / rank) B A, W being those that it came with."""
        for place, layer in self.layers.items():
            down, up = self.parameters[f"{place}.{_DOWN}"], self.parameters[f"{place}.{_UP}"]
            layer.weight.copy_(torch.addmm(self._plain[place], up, down, alpha=self.info.scale))

    def training_copy(self, dtype: torch.dtype) -> tuple[Any, dict[str, torch.nn.Parameter]]:
        """A copy of the shared model in `dtype` with PEFT's layers inside, and its adapter's parameters by our names.

        These alone can learn. The copy computes what the merged model does, up to rounding.
        """
        from peft import LoraConfig, inject_adapter_in_model

        model = copy.deepcopy(self.model)
        for place, weight in self._plain.items():
            model.get_submodule(place).weight.data = weight.clone()
        model = cast(model, dtype).requires_grad_(False)
        config = LoraConfig(
            r=self.info.rank, lora_alpha=self.info.alpha, lora_dropout=self.dropout, target_modules=list(self.layers)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks Transformers by a name that is going out of use
            model = inject_adapter_in_model(config, model)
        inside = {}
        for place in self.layers:
            layer = model.get_submodule(place)
            for name, module in ((_DOWN, layer.lora_A["default"]), (_UP, layer.lora_B["default"])):
                parameter = self.parameters[f"{place}.{name}"]
                module.weight = torch.nn.Parameter(parameter.detach().to(dtype, copy=True), requires_grad=True)
                inside[f"{place}.{name}"] = module.weight
        return model.eval(), inside

    def check_merge(self) -> None:
        """Merge, and raise DraftbenchError unless that gives the logits of the update computed beside the weights."""
        rows = int(self.model.get_input_embeddings().weight.shape[0])
        ids = torch.linspace(0, rows - 1, min(_PROBE_IDS, rows), device=self.model.device).long().unsqueeze(0)
        with self._beside():
            expected = _logits(self.model, ids)
        self.merge()
        scale, off = float(expected.abs().max()), float((_logits(self.model, ids) - expected).abs().max())
        if not off <= _TOLERANCE * max(scale, 1e-6):  # also if either is NaN
            raise DraftbenchError(
                "the draft's adapter cannot be merged into the shared draft",
                f"merged, its logits differ by {off:.3g} from its own, the largest of which is {scale:.3g}",
                "train it again",
            )

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        """Within it the model, not merged yet, computes each update from the layer's inputs."""

        def hook(down: torch.Tensor, up: torch.Tensor) -> Any:
            return lambda layer, given, output: output + self.info.scale * (given[0] @ down.T) @ up.T

        handles = [
            layer.register_forward_hook(
                hook(self.parameters[f"{place}.{_DOWN}"].detach(), self.parameters[f"{place}.{_UP}"].detach())
            )
            for place, layer in self.layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def fresh_adapter(model: Any, spec: DraftLoraSpec, *, seed: int, shared_sha256: str, shared_name: str) -> Lora:
    """A new adapter for a float32 model, which it does not change yet: A is random, B zero, as PEFT begins.

    Raises DraftbenchError if an adapter of these layers cannot be merged into the model, before any is trained.
    """
    info = AdapterInfo(spec.rank, spec.alpha, list(spec.modules), shared_sha256, shared_name)
    generator, weights = torch.Generator().manual_seed(seed), {}
    for place, layer in adapted_layers(model, spec.modules, key="draft.lora.modules").items():
        most = 1 / math.sqrt(layer.in_features)
        weights[f"{place}.{_DOWN}"] = torch.empty(spec.rank, layer.in_features).uniform_(
            -most, most, generator=generator
        )
        weights[f"{place}.{_UP}"] = torch.empty(layer.out_features, spec.rank).uniform_(-1, 1, generator=generator)
    lora = Lora(model, info, weights, spec.dropout)
    lora.check_merge()
    with torch.no_grad():
        for name, parameter in lora.parameters.items():
            if name.endswith(_UP):
                parameter.zero_()
    lora.merge()
    return lora


def stored_adapter(model: Any, info: AdapterInfo, state: Mapping[str, torch.Tensor]) -> Lora:
    """An adapter as it was kept, for the shared draft that it was trained on; not merged yet.

    Raises DraftbenchError unless its tensors are exactly those of the adapted layers.
    """
    layers = adapted_layers(model, info.modules, key="draft.lora.modules")
    expected = {
        name: shape
        for place, layer in layers.items()
        for name, shape in (
            (f"{place}.{_DOWN}", (info.rank, layer.in_features)),
            (f"{place}.{_UP}", (layer.out_features, info.rank)),
        )
    }
    held = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if held != expected:
        odd = min(name for name in held.keys() | expected.keys() if held.get(name) != expected.get(name))
        raise DraftbenchError(
            f"the adapter does not fit its shared draft: {odd} is {held.get(odd, 'missing')} and should be "
            f"{expected.get(odd, 'absent')}",
            "the folder is damaged, or the shared draft is another one",
            "train it again",
        )
    return Lora(model, info, state)


def shared_folder(folder: Path, info: AdapterInfo) -> Path:
    """The folder of the shared draft that the adapter in `folder` belongs to: beside it, or where its recipe named it.

    Raises DraftbenchError if neither holds these very weights.
    """
    beside = folder.parent / SHARED_FOLDER
    places = [beside, *([Path(info.shared_name), PROJECT_ROOT / info.shared_name] if info.shared_name else [])]
    cards = {place: place / "draft.json" for place in places if (place / "draft.json").is_file()}
    for place, card in cards.items():
        if read_object(card).get("weights_sha256") == info.shared_sha256:
            return place
    called = f" ({info.shared_name})" if info.shared_name else ""
    raise DraftbenchError(
        f"the draft in {folder} is an adapter on a shared draft{called} that is not here",
        f"the weights {info.shared_sha256[:12]} are in none of: {', '.join(str(place) for place in cards or places)}",
        f"put the folder of the shared draft at {beside}; on another draft the adapter would be another model",
    )


@contextlib.contextmanager
def dropping(model: Any, *drawn_for: object) -> Iterator[None]:
    """Within it the adapter's dropout is at work, drawn for `drawn_for` and nothing else: a resumed run draws the same.

    Of no effect on a model without dropout in its adapter.
    """
    drops = [
        part
        for name, module in model.named_modules()
        if name.endswith(".lora_dropout")
        for part in module.modules()
        if isinstance(part, torch.nn.Dropout)
    ]
    if not drops:
        yield
        return
    seed = int.from_bytes(hashlib.sha256(repr(drawn_for).encode()).digest()[:7])
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for part in drops:
            part.train()
        try:
            yield
        finally:
            for part in drops:
                part.eval()


def write_peft(folder: Path, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """An adapter as PEFT reads it; the same weights give the same bytes. `weights`: by PEFT's names."""
    from safetensors.torch import save

    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    write_json(folder / CONFIG, {**plain, "inference_mode": True})
    kept = {name: tensor.cpu().contiguous() for name, tensor in sorted(weights.items())}
    write_atomic(folder / WEIGHTS, save(kept))  # last: a folder with weights is whole


@torch.no_grad()
def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()
