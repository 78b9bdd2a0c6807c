"""Load a model specification into memory, ready to decode or to distil."""

from __future__ import annotations

import re
from dataclasses import dataclass
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
from engine.models.embeddings import embeddings_hash
from engine.models.folder import FIX, check_quantised, check_settings, check_size, read_config
from engine.models.fused_linears import fuse_linears
from engine.models.int8 import quantise, refuse_int8
from engine.models.locate import fingerprint, locate_adapter, locate_model
from engine.models.tokenizer import adapted_tokenizer, check_ids, read_tokenizer

# Tables that older versions saved with the weights, and that every model now computes.
_COMPUTED = re.compile(r"(rotary_emb\.inv_freq|attn\.(masked_)?bias|attention\.(masked_)?bias|position_ids)$")


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in evaluation mode, its tokenizer and its fingerprint."""

    model: Any
    tokenizer: Any
    spec: ModelSpec
    fingerprint: str

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

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
        return getattr(self.model.config, "max_position_embeddings", None)

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
    config = read_config(locate_model(spec), trust_remote_code=spec.trust_remote_code)
    tokens: int | None = getattr(config, "max_position_embeddings", None)
    return tokens


def model_fingerprint(spec: ModelSpec) -> str:
    """The fingerprint of the weights of a specification, adapter and rounding included, without loading them."""
    base = fingerprint(locate_model(spec))
    merged = content_hash([base, fingerprint(locate_adapter(spec.adapter))]) if spec.adapter else base
    return content_hash([merged, spec.quantize]) if spec.quantize else merged


def load_model(spec: ModelSpec, *, dtype: str | None = None) -> LoadedModel:
    """Load `spec` in evaluation mode without gradients. `dtype` overrides the one in the spec.

    Weights are read from safetensors only; missing tensors, superfluous ones and other shapes are refused. An adapter
    is merged into its base, so that the rest of the engine sees a plain model; `spec.quantize` rounds the weights after
    that. Raises DraftbenchError if the folder holds no usable causal model.
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
    model = _whole_model(folder, torch_dtype, spec)
    check_ids(tokenizer, model.get_input_embeddings().weight.shape[0], spec.label)
    if spec.adapter:
        model = merge_adapter(model, locate_adapter(spec.adapter), spec.adapter)
    model = model.to(device).eval().requires_grad_(False)
    if spec.quantize:
        quantise(model)
    fuse_linears(model)
    return LoadedModel(model, tokenizer, spec, model_fingerprint(spec))


def refuse_twice_rounded(spec: ModelSpec, quantization: Any) -> None:
    """Raise DraftbenchError if the weights, quantised as config.json says, would be rounded once more."""
    if spec.quantize is not None and quantization is not None:
        raise DraftbenchError(
            f"target.quantize: the weights of {spec.model} are quantised already",
            "rounding them once more would add a second error to the first",
            "leave target.quantize out, or use the original model",
        )


def _whole_model(folder: Path, dtype: torch.dtype, spec: ModelSpec) -> Any:
    """Load the model and check that it has every tensor of its checkpoint."""
    from transformers import AutoModelForCausalLM

    with boundary(f"could not load {spec.model}", FIX):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=spec.trust_remote_code,
            output_loading_info=True,
        )
    # Transformers fills missing tensors with random numbers, ignores superfluous ones, and only warns.
    over = [name for name in report["unexpected_keys"] if not _COMPUTED.search(name)]
    kinds = {
        "lack": report["missing_keys"],
        "hold more than the model has:": over,
        "have another shape than the model:": [name for name, *_ in report["mismatched_keys"]],
    }
    for how, names in kinds.items():
        if names:
            raise DraftbenchError(
                f"could not load {spec.model}: its weights {how} {len(names)} tensors, such as {min(names)}",
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
    rows = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, 9).remainder(rows).unsqueeze(0).repeat(2, 1)
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
