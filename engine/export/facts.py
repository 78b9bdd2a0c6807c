"""What a server asks of a target and its draft before it loads them, read from settings and tokenizers alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from engine.catalogue import Proposals
from engine.config.schema import ModelSpec, Recipe
from engine.errors import DraftbenchError
from engine.export.gguf_file import unfit_for_gguf
from engine.export.gguf_tokenizer import tokenizer_fields
from engine.fileio import read_object
from engine.models.adapter import CONFIG as ADAPTER_CONFIG
from engine.models.context import context_of
from engine.models.draft import read_card
from engine.models.folder import SETTINGS_BYTES, read_config
from engine.models.load import load_tokenizer, resolve_device, resolve_dtype
from engine.models.locate import gguf_source, locate_adapter, locate_model
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder


@dataclass(frozen=True)
class ModelFacts:
    """One model of a pair. `tokens`: the text of each id that the tokenizer knows."""

    name: str
    architecture: str
    """The class of Transformers, as `architectures` of config.json names it."""
    rows: int
    """`vocab_size` of the settings: rows of embeddings and head, padding included."""
    tokens: tuple[str, ...]
    tokenizer: str = "BPE"
    """The kind of the tokenizer; llama.cpp compares it first."""
    bos: int | None = None
    eos: int | None = None
    adds_bos: bool = False
    adds_eos: bool = False
    merges: int = 1
    """Merge rules of a BPE."""
    context_tokens: int | None = None
    dtype: str = "bfloat16"
    heads: int = 1
    kv_heads: int | None = None
    """Key-value heads; None: as many as `heads`."""
    feed_forward: tuple[int, ...] = ()
    """Widths of the feed-forward layers; () if the settings do not say."""
    encoder_decoder: bool = False
    own_code: bool = False
    """Whether its classes come with the model."""
    quantised: str = ""
    """How its weights are rounded; '' if they are not."""
    adapter_rank: int | None = None
    """Of the adapter on it; None if there is none."""
    no_gguf: str = ""
    """Why our writer cannot make a GGUF file of it; '' if it can."""


@dataclass(frozen=True)
class Asked:
    """What is asked of the server and the export."""

    gamma: int = 3
    proposals: Proposals | None = None
    """None: the server's default."""
    context_tokens: int | None = None
    """None: what both models support."""
    tensor_parallel: int = 1
    target: str = "none"
    """How the target goes along: none, merged or apart (the adapter beside its base)."""
    gguf: str = "f16"
    quantiser: bool = False
    """Whether a program that makes q4_k_m is at hand."""


@dataclass(frozen=True)
class Pair:
    """The two models as the server will see them."""

    target: ModelFacts
    draft: ModelFacts

    @property
    def context_tokens(self) -> int | None:
        """The longest text that both support; None if neither says."""
        known = [m.context_tokens for m in (self.target, self.draft) if m.context_tokens is not None]
        return min(known) if known else None


def target_facts(spec: ModelSpec, tokenizer: Any, *, with_gguf: bool = True) -> ModelFacts:
    """The facts of a target. `with_gguf`: also whether a GGUF file can be made of it, which takes seconds to say.

    Raises DraftbenchError if it cannot be located or its settings cannot be read.
    """
    folder = locate_model(spec)
    config = read_config(folder, trust_remote_code=spec.trust_remote_code)
    dtype = str(resolve_dtype(spec.dtype, resolve_device(spec.device))).removeprefix("torch.")
    facts = _facts(spec.model, config, tokenizer, spec, dtype, with_gguf)
    settings = getattr(config, "quantization_config", None)
    quantised = spec.quantize or (str(_get(settings, "quant_method") or "quantised") if settings else "")
    if spec.adapter is None:
        return replace(facts, quantised=quantised)
    rank = read_object(locate_adapter(spec.adapter) / ADAPTER_CONFIG, SETTINGS_BYTES).get("r")
    return replace(facts, quantised=quantised, adapter_rank=rank if isinstance(rank, int) else 0)


def draft_facts(run: RunFolder, target: ModelSpec, tokenizer: Any, *, with_gguf: bool = True) -> ModelFacts:
    """The facts of a run's best draft as it is exported: with its target's tokenizer, and with all of its ids.

    Raises DraftbenchError if the run has no draft.
    """
    from transformers import AutoConfig

    folder = best_draft(run)
    settings = dict(read_card(folder).config)
    kind = settings.pop("model_type")
    target_config = read_config(locate_model(target), trust_remote_code=target.trust_remote_code)
    config: Any
    if kind == target_config.model_type:
        config = type(target_config).from_dict(settings)
    else:
        config = AutoConfig.for_model(kind, **settings)
    dtype = str(resolve_dtype(target.dtype, resolve_device(target.device))).removeprefix("torch.")
    return _facts(f"the draft of run {run.id}", config, tokenizer, target, dtype, with_gguf)


def pair_of(run: RunFolder, recipe: Recipe, served: ModelSpec, *, with_gguf: bool = True) -> Pair:
    """The run's draft and the target that is served, the run's own or another copy."""
    tokenizer = load_tokenizer(recipe.target)  # which takes a second
    draft = draft_facts(run, recipe.target, tokenizer, with_gguf=with_gguf)
    other = tokenizer if served is recipe.target else load_tokenizer(served)
    return Pair(target_facts(served, other, with_gguf=with_gguf), draft)


def _facts(name: str, config: Any, tokenizer: Any, spec: ModelSpec, dtype: str, with_gguf: bool) -> ModelFacts:
    text = config.get_text_config()
    rows = int(text.vocab_size)
    around = tokenizer("a")["input_ids"]
    no_gguf = unfit_for_gguf(text) if with_gguf else ""
    if with_gguf and not no_gguf:
        try:
            tokenizer_fields(tokenizer, max(rows, len(tokenizer)), source=gguf_source(spec))
        except DraftbenchError as error:
            no_gguf = f"{error.what}: {error.why}"
    return ModelFacts(
        name=name,
        architecture=str((getattr(config, "architectures", None) or [type(config).__name__])[0]),
        rows=rows,
        tokens=tuple(str(token) for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))),
        tokenizer=_kind(tokenizer),
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        adds_bos=bool(around) and around[0] == tokenizer.bos_token_id,
        adds_eos=bool(around) and around[-1] == tokenizer.eos_token_id,
        merges=_merges(tokenizer),
        context_tokens=context_of(config),
        dtype=dtype,
        heads=int(getattr(text, "num_attention_heads", 1) or 1),
        kv_heads=_whole(getattr(text, "num_key_value_heads", None)),
        feed_forward=feed_forward_widths(text),
        encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        own_code=bool(getattr(config, "auto_map", None)),
        no_gguf=no_gguf,
    )


def feed_forward_widths(settings: Any) -> tuple[int, ...]:
    """Of a model's text settings the widths of its feed-forward layers that are divided; () if they do not say.

    With experts the width of an expert, and that of the whole layers where the model has such layers too.
    """
    whole = ["intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"]
    experts = _sizes(settings, "moe_intermediate_size", "shared_expert_intermediate_size")
    if experts:
        some_whole = getattr(settings, "first_k_dense_replace", 0) or getattr(settings, "mlp_only_layers", ())
        return experts + (_sizes(settings, "intermediate_size") if some_whole else ())
    if not _sizes(settings, *whole) and hasattr(settings, "n_inner"):  # GPT-2 leaves it out
        return (4 * int(settings.hidden_size),)
    return _sizes(settings, *whole)


def _sizes(settings: Any, *names: str) -> tuple[int, ...]:
    given = [getattr(settings, name, None) for name in names]
    listed = [size for value in given for size in (value if isinstance(value, list | tuple) else [value])]
    return tuple(dict.fromkeys(size for size in listed if isinstance(size, int) and size > 0))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _get(settings: Any, name: str) -> Any:
    return settings.get(name) if isinstance(settings, dict) else getattr(settings, name, None)


def _kind(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(backend.model).__name__ if backend is not None else type(tokenizer).__name__


def _merges(tokenizer: Any) -> int:
    """The number of merge rules; 1 where the tokenizer is of a kind that has none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str())["model"] if backend is not None else {}
    return len(model["merges"]) if "merges" in model else 1
