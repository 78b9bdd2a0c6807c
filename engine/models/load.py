"""Load a model specification into memory, ready to decode or to distil."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from engine.chat.template_date import pin_date
from engine.chat.turns import TemplateMarks, Turns, check_generation, declared_ids, template_marks
from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError, boundary
from engine.fileio import content_hash
from engine.models.adapter import merge_adapter
from engine.models.context import context_of
from engine.models.embeddings import embeddings_hash
from engine.models.folder import FIX, Settings, check_settings, check_size, outline, read_config
from engine.models.fused_linears import fuse_linears
from engine.models.int8 import quantise, refuse_int8
from engine.models.locate import fingerprint, locate_adapter, locate_model
from engine.models.placement import DISK, DeviceMap, device_map, is_spread, placed_in_words, rooms_for, sizes_of
from engine.models.precision import cast
from engine.models.quantised import (
    check_quantised,
    is_packed,
    is_unpacked,
    method_of,
    quantised_name,
    refuse_packed_ends,
    unpacked_copy,
    unpacking,
)
from engine.models.split import check_split, splitting
from engine.models.team import is_split, team_of
from engine.models.tokenizer import adapted_tokenizer, check_ids, read_tokenizer
from engine.paths import cache_dir

# Tables that older versions saved with the weights, and that every model now computes.
_COMPUTED = re.compile(r"(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias|position_ids)$")


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in evaluation mode, its tokenizer and its fingerprint."""

    model: Any
    tokenizer: Any
    spec: ModelSpec
    fingerprint: str
    drafts_on: torch.device | None = None  # None: where the model itself reads ids

    @property
    def draft_device(self) -> torch.device:
        """Where drafts for this target lie."""
        return self.device if self.drafts_on is None else self.drafts_on

    @property
    def device(self) -> torch.device:
        """Where the model reads ids, and gives hidden states and logits."""
        return torch.device(self.model.get_input_embeddings().weight.device)

    @property
    def placed(self) -> str:
        """Where the layers lie, for people; empty if the model lies whole on its device."""
        count = self.spec.tensor_parallel
        return f"every layer in {count} parts, on as many devices" if count > 1 else placed_in_words(self.model)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def weights(self) -> str | None:
        """How the layers' weights are rounded, such as 'int8' or 'bitsandbytes nf4'; None if they are plain."""
        return self.spec.quantize or quantised_name(self.model)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def embeddings_hash(self) -> str:
        """Hash of the embeddings and the head: targets with the same hash can use one draft that shares them."""
        rows, head = self.model.get_input_embeddings().weight, self.model.get_output_embeddings().weight
        return embeddings_hash([rows] if rows is head else [rows, head])

    @property
    def vocab_rows(self) -> int:
        """Rows of the output head, padding rows included."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def input_rows(self) -> int:
        """Rows of the input embeddings: larger ids are not tokens of the model."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def context_tokens(self) -> int | None:
        """The longest sequence that the model supports; None if its configuration does not say."""
        return context_of(self.model.config)

    @property
    def turns(self) -> Turns:
        """What ends a turn."""
        settings = self.model.generation_config
        return Turns(declared_ids(self.tokenizer, settings), self.tokenizer.eos_token_id, self._template_marks)

    @cached_property
    def _template_marks(self) -> TemplateMarks:
        return template_marks(self.tokenizer)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer: those of the generation settings, the tokenizer and the chat template."""
        return self.turns.stop_ids


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; 'auto' is cuda, else mps, else cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DraftbenchError(
            f"device {name!r} cannot be used", str(error).splitlines()[0], "use device: auto or cpu"
        ) from None
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype of that name; 'auto' is bfloat16 only where it is native: emulation is slower than float32."""
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.bfloat16 if _native_bfloat16(device) else torch.float32


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return False


def load_tokenizer(spec: ModelSpec) -> Any:
    """Load the tokenizer without the weights, for rendering prompts: the base's, or that of its adapter.

    Its template writes the date of the spec (`engine.chat.template_date`). Raises DraftbenchError if it cannot be read,
    or an adapter's tokenizer does not fit the base.
    """
    tokenizer = read_tokenizer(locate_model(spec), trust_remote_code=spec.trust_remote_code)
    if spec.adapter is not None:
        tokenizer = adapted_tokenizer(tokenizer, locate_adapter(spec.adapter), spec.adapter)
    pin_date(tokenizer, spec.template_date)
    return tokenizer


def context_tokens(spec: ModelSpec) -> int | None:
    """`LoadedModel.context_tokens` of a specification, from its configuration alone."""
    return context_of(read_config(locate_model(spec), trust_remote_code=spec.trust_remote_code))


def model_fingerprint(spec: ModelSpec) -> str:
    """The fingerprint of the weights of a specification, adapter and rounding included, without loading them."""
    folder = locate_model(spec)
    base = fingerprint(folder)
    merged = content_hash([base, fingerprint(locate_adapter(spec.adapter))]) if spec.adapter else base
    if spec.quantize:
        return content_hash([merged, spec.quantize])
    method = method_of(check_settings(folder))
    unpacked = method is not None and is_unpacked(method, resolve_device(spec.device))
    return content_hash([merged, "unpacked"]) if unpacked else merged


def load_model(spec: ModelSpec, *, dtype: str | None = None) -> LoadedModel:
    """Load `spec` in evaluation mode without gradients. `dtype` overrides the one in the spec.

    Weights are read from safetensors only; missing tensors, superfluous ones and other shapes are refused. An adapter
    is merged into its base, so that the rest of the engine sees a plain model; `spec.quantize` rounds the weights after
    that. Quantised weights are used by their library, but as plain numbers where `dtype` asks for float32. With
    `spec.device_map` the layers may lie on several devices. Raises DraftbenchError if the folder holds no usable causal
    model.
    """
    folder = locate_model(spec)
    device = resolve_device(spec.device)
    torch_dtype = resolve_dtype(dtype or spec.dtype, device)
    settings = check_settings(folder)
    check_quantised(folder, settings)
    refuse_twice_rounded(spec, settings.get("quantization_config"))
    if spec.quantize is not None:
        refuse_int8(device)
    check_generation(folder)
    check_size(folder, settings, trust_remote_code=spec.trust_remote_code)
    tokenizer = load_tokenizer(spec)
    if spec.tensor_parallel > 1:
        shapes = outline(folder, torch_dtype, trust_remote_code=spec.trust_remote_code)
        check_split(shapes, spec, device)
        model = team_of(spec.tensor_parallel).call(_split_model, folder, torch_dtype, spec, keep=True)
    else:
        model = _whole_model(folder, torch_dtype, spec, _how(folder, settings, torch_dtype, device, spec))
    check_ids(tokenizer, model.get_input_embeddings().weight.shape[0], spec.label)
    if spec.adapter:
        _refuse_adapter(model, spec)
        model = merge_adapter(model, locate_adapter(spec.adapter), spec.adapter)
    if is_packed(model) and dtype is None:
        _refuse_other_dtype(model, spec)
    if is_packed(model) and dtype == "float32":
        model = unpacked_copy(model, spec.model)
    elif not (is_packed(model) or is_spread(model) or is_split(model)):
        model = model.to(device)
    model = model.eval().requires_grad_(False)
    if spec.quantize:
        quantise(model)
    if not (is_packed(model) or is_spread(model) or is_split(model)):  # their layers compute in a way of their own
        fuse_linears(model)
    return LoadedModel(model, tokenizer, spec, model_fingerprint(spec))


def _split_model(folder: Path, dtype: torch.dtype, spec: ModelSpec) -> Any:
    """This process's part of a model, as every process of a team loads its own."""
    shapes = outline(folder, dtype, trust_remote_code=spec.trust_remote_code)
    model = _whole_model(folder, dtype, spec, splitting(shapes, spec.tensor_parallel))
    return model.eval().requires_grad_(False)


def _how(folder: Path, settings: Settings, dtype: torch.dtype, device: torch.device, spec: ModelSpec) -> dict[str, Any]:
    """Arguments by which Transformers places a model that is quantised or spread; none for a plain one."""
    method = method_of(settings)
    where: DeviceMap | None = None
    if spec.device_map is not None:
        where = planned_map(folder, settings, dtype, device, spec)
    elif method is not None:
        where = {"": str(device)}
    if where is None:
        return {}
    # where a family's tensors are rearranged as they are loaded, those that stay on disk are kept so
    offload = (
        {"offload_folder": str(cache_dir() / "offload" / fingerprint(folder)[:24])} if DISK in where.values() else {}
    )
    return {"device_map": where, **offload, **unpacking(method, device)}


def planned_map(
    folder: Path, settings: Settings, dtype: torch.dtype, device: torch.device, spec: ModelSpec
) -> DeviceMap:
    """Where `spec.device_map` puts a model's modules, by the memory that is free now."""
    shapes = outline(folder, dtype, trust_remote_code=spec.trust_remote_code)
    method = method_of(settings)
    packed = method is not None and not is_unpacked(method, device)
    return device_map(shapes, sizes_of(shapes, folder, dtype, packed=packed), rooms_for(spec, device))


def _refuse_other_dtype(model: Any, spec: ModelSpec) -> None:
    """Some libraries leave what is not quantised in the dtype of the files, whatever is asked for."""
    own = str(model.dtype).removeprefix("torch.")
    if spec.dtype not in ("auto", own):
        raise DraftbenchError(
            f"target.dtype is {spec.dtype}, and {spec.model}, which is quantised, computes in {own}",
            "its library keeps what is not quantised as it was saved",
            f"set target.dtype: auto or {own}",
        )


def _refuse_adapter(model: Any, spec: ModelSpec) -> None:
    """An adapter is merged into plain weights that are all in memory."""
    spread, packed = is_spread(model) or is_split(model), is_packed(model)
    if spread or packed:
        raise DraftbenchError(
            f"target.adapter: {spec.model} {'is spread over devices' if spread else 'is quantised'}",
            "merging changes weights in place" + (" and would round them once more" if packed else ""),
            "merge it into the plain model once (PEFT's merge_and_unload, save_pretrained), and use the merged folder",
        )


def with_drafts_on(target: LoadedModel, device: str) -> LoadedModel:
    """The target with its drafts on a device of that name; auto: where the target reads ids."""
    return target if device == "auto" else replace(target, drafts_on=resolve_device(device))


def refuse_twice_rounded(spec: ModelSpec, quantization: Any) -> None:
    """Raise DraftbenchError if the weights, quantised as config.json says, would be rounded once more."""
    if spec.quantize is not None and quantization is not None:
        raise DraftbenchError(
            f"target.quantize: the weights of {spec.model} are quantised already",
            "rounding them once more would add a second error to the first",
            "leave target.quantize out, or use the original model",
        )


def _whole_model(folder: Path, dtype: torch.dtype, spec: ModelSpec, how: Mapping[str, Any]) -> Any:
    """Load the model and check that it has every tensor of its checkpoint."""
    from transformers import AutoModelForCausalLM

    with boundary(f"could not load {spec.model}", FIX):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=spec.trust_remote_code,
            output_loading_info=True,
            **how,
        )
    # Transformers fills missing tensors with random numbers, ignores superfluous ones, and only warns.
    over = [name for name in report["unexpected_keys"] if not _COMPUTED.search(name)]
    kinds = {
        "lack": report["missing_keys"],
        "hold more than the model has:": over,
        "have another shape than the model:": [name for name, *_ in report["mismatched_keys"]],
    }
    for fault, names in kinds.items():
        if names:
            raise DraftbenchError(
                f"could not load {spec.model}: its weights {fault} {len(names)} tensors, such as {min(names)}",
                f"{type(model).__name__} would not be the model that was saved"
                + (f", which was {_saved_as(model)}" if _saved_as(model) else ""),
                "fetch the model again; a classifier, a reward model or an encoder cannot be a target",
            )
    if model.get_output_embeddings() is None or model.get_input_embeddings() is None:
        raise DraftbenchError(
            f"could not load {spec.model}: {type(model).__name__} has no output head over the vocabulary",
            "a target is a causal language model",
            FIX,
        )
    refuse_packed_ends(model, spec.model)
    if "quantization_config" in how and not is_packed(model):
        cast(model, dtype)  # Transformers unpacks float8 into the dtype of its scales
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        # The weights have a head although the settings tie it: models that are created from the settings need one too.
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
    _check_causal(model, spec)
    return model


def _saved_as(model: Any) -> str:
    """The architecture that the folder names, if another one was loaded."""
    named = getattr(model.config, "architectures", None) or []
    return ", ".join(str(name) for name in named if name != type(model).__name__)


@torch.no_grad()
def _check_causal(model: Any, spec: ModelSpec) -> None:
    """Refuse a model in which a later token changes an earlier prediction, such as an encoder loaded as a decoder."""
    embeddings = model.get_input_embeddings().weight
    ids = torch.arange(1, 9, device=embeddings.device).remainder(embeddings.shape[0]).unsqueeze(0).repeat(2, 1)
    ids[1, -1] = 0
    with boundary(f"could not load {spec.model}", FIX, "the model cannot read eight tokens"):
        one, other = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    if not torch.isfinite(one).all():
        raise DraftbenchError(
            f"could not load {spec.model}: its logits are not numbers",
            "its weights or settings are damaged, or too large for the dtype",
            "fetch the model again, or set target.dtype: float32",
        )
    near = (
        1e-4 if model.dtype == torch.float32 else 2e-2
    )  # masked tokens have no weight, so only the order of sums differs
    masked = any(str(name).endswith("ForMaskedLM") for name in getattr(model.config, "architectures", None) or [])
    if masked or not torch.allclose(one, other, rtol=near, atol=near * float(one.abs().max())):
        raise DraftbenchError(
            f"could not load {spec.model}: {type(model).__name__} sees the tokens that come after",
            "a target predicts each token from those before it",
            "use a causal language model",
        )
