"""Loading a model specification into memory, ready to decode or to distil."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from engine.clock import pin_date
from engine.config import ModelSpec
from engine.errors import DraftbenchError
from engine.fileio import content_hash
from engine.models.embeddings import embeddings_hash
from engine.models.locate import fingerprint, locate_adapter, locate_model
from engine.turns import TemplateMarks, Turns, declared_ids, template_marks


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in evaluation mode, its tokenizer and what identifies it."""

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
        """Of the embeddings and the head: two targets with the same can have one draft that shares them."""
        rows, head = self.model.get_input_embeddings().weight, self.model.get_output_embeddings().weight
        return embeddings_hash([rows] if rows is head else [rows, head])

    @property
    def vocab_rows(self) -> int:
        """Rows of the output head: the tokenizer's ids, padding rows included."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def context_tokens(self) -> int | None:
        """Longest sequence the model was made for, if its configuration says."""
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
        """Ids that end an answer: those of the generation settings, the tokenizer and the chat template."""
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
    """The torch dtype of that name; 'auto' is bfloat16 only where it is native, since emulation is slower than float32."""
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
    """The tokenizer alone, for rendering prompts without the weights."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(locate_model(spec), trust_remote_code=spec.trust_remote_code)
    pin_date(tokenizer, spec.template_date)
    return tokenizer


def model_fingerprint(spec: ModelSpec) -> str:
    """What identifies the weights of a specification, adapter included, without loading them."""
    base = fingerprint(locate_model(spec))
    return content_hash([base, fingerprint(locate_adapter(spec.adapter))]) if spec.adapter else base


def load_model(spec: ModelSpec, *, dtype: str | None = None) -> LoadedModel:
    """Load `spec` in evaluation mode, gradients off. `dtype` overrides the one in the spec.

    Weights come from safetensors only. An adapter is merged into its base, so what follows
    sees a plain model. Raises DraftbenchError if the folder holds no usable causal model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    folder = locate_model(spec)
    device = resolve_device(spec.device)
    torch_dtype = resolve_dtype(dtype or spec.dtype, device)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch_dtype,
            use_safetensors=True,
            trust_remote_code=spec.trust_remote_code,
            output_loading_info=True,
        )
        if found["missing_keys"]:  # Transformers would fill them with random numbers and go on
            raise ValueError(f"its weights lack {min(found['missing_keys'])}")
        if spec.adapter:
            from peft import PeftModel

            with warnings.catch_warnings():  # PEFT asks Transformers by a name that is going out of use
                warnings.simplefilter("ignore", FutureWarning)
                model = PeftModel.from_pretrained(model, locate_adapter(spec.adapter)).merge_and_unload()
        tokenizer = load_tokenizer(spec)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DraftbenchError(
            f"could not load {spec.model}" + (f" with adapter {spec.adapter}" if spec.adapter else ""),
            f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            "the folder needs config.json, safetensors of a causal language model, and its tokenizer",
        ) from error
    model = model.to(device).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, spec, model_fingerprint(spec))
