"""Generation without a model's own settings, so that two texts differ only where the models do.

A model folder may bring settings for `generate` (generation_config.json): a repetition penalty,
beams, suppressed tokens, a cache of its own. Transformers fills whatever a call leaves open from
them, even beside an explicit `generation_config`, and a draft's settings steer how it proposes. A
comparison in which one side applies them compares other distributions, so every call of
`generate` in this project goes through `generate`, and what the settings ask for is reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from engine.decode.sampling import Sampling
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_json
from engine.models.fused_linears import as_loaded
from engine.models.team import mirrored

# Keys that leave the text as it is, or that a recipe sets itself: ids, lengths, temperature, what is returned, caches.
_NOT_ASKED = frozenset(
    {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "max_length",
        "max_new_tokens",
        "max_time",
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "return_legacy_cache",
        "prefill_chunk_size",
        "compile_config",
        "disable_compile",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "num_return_sequences",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "is_assistant",
        "assistant_confidence_threshold",
        "assistant_lookbehind",
        "target_lookbehind",
        "assistant_early_exit",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "transformers_version",
        "continuous_batching_config",
        "early_stopping",
        "low_memory",
        "remove_invalid_values",
        "renormalize_logits",
        "token_healing",
        "max_cache_len",
        "speculation_type",
        "assistant_ensemble_weight",
        "use_mtp",
    }
)
# Values that do nothing. What is not named does nothing when it is empty, zero or false.
_NEUTRAL: Mapping[str, float] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "typical_p": 1,
    "repetition_penalty": 1,
    "encoder_repetition_penalty": 1,
    "length_penalty": 1,
    "guidance_scale": 1,
    "top_h": 1,
}
_OF_BEAMS = frozenset({"length_penalty", "diversity_penalty", "num_beam_groups"})  # no effect without beams


def bare_settings(model: Any, stop_ids: Collection[int] = ()) -> Any:
    """A GenerationConfig of the ids alone: beginning, padding, and `stop_ids` as those that end an answer."""
    from transformers import GenerationConfig

    own = model.generation_config
    named = own.pad_token_id
    padding = named if isinstance(named, int) and named >= 0 else min(stop_ids, default=0)
    return GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=sorted(stop_ids) or None, pad_token_id=padding, use_cache=True
    )


@contextmanager
def bare_generation(*models: Any, stop_ids: Collection[int] = ()) -> Iterator[None]:
    """The models without their own settings for `generate`, computing as Transformers does for everybody.

    Their settings are put back at the end.
    """
    own = [model.generation_config for model in models]
    for model in models:
        model.generation_config = bare_settings(model, stop_ids)
    try:
        with as_loaded():
            yield
    finally:
        for model, settings in zip(models, own, strict=True):
            model.generation_config = settings


@mirrored
def generate(
    target: Any,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    seed: int,
    stop_ids: Collection[int] = (),
    assistant: Any = None,
    num_draft_tokens: int = 5,
) -> list[int]:
    """The ids that Transformers' own `generate` writes after `prompt_ids`, with its usual cache.

    Nothing but `max_new_tokens` and `stop_ids` ends it, and nothing but `sampling` changes the distribution,
    whatever the settings of `target` and `assistant` (a draft for assisted generation, which then proposes
    `num_draft_tokens` each time) say. The global random state is left as it was.
    """
    given = torch.tensor([list(prompt_ids)], device=target.device)
    models = [target] if assistant is None else [target, assistant]
    with bare_generation(*models, stop_ids=stop_ids), torch.random.fork_rng(_cuda_devices(target)):
        settings = bare_settings(target, stop_ids)
        settings.update(max_new_tokens=max_new_tokens, do_sample=not sampling.greedy)
        if not sampling.greedy:  # top_k would be 50 if nobody said
            settings.update(temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
        more = {}
        if assistant is not None:
            assistant.generation_config.update(**proposing(num_draft_tokens))
            more["assistant_model"] = assistant
        torch.manual_seed(seed)
        written = target.generate(given, attention_mask=torch.ones_like(given), generation_config=settings, **more)
    new: list[int] = written[0, given.shape[1] :].tolist()  # reading it waits for the device
    return new


def proposing(num_draft_tokens: int) -> dict[str, Any]:
    """Settings of a draft for assisted generation: always so many tokens, however sure it is of them."""
    return {
        "num_assistant_tokens": num_draft_tokens,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    }


def asked_for(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own generation settings that make `generate` write another text than the bare model.

    What Transformers knows no setting of that name for has no effect, and is left out.
    """
    from transformers import GenerationConfig

    counted = vars(GenerationConfig()).keys() - _NOT_ASKED
    asked = {key: value for key, value in sorted(settings.items()) if key in counted and _acts(key, value)}
    beams = "num_beams" in asked
    return {key: value for key, value in asked.items() if beams or key not in _OF_BEAMS}


def _acts(key: str, value: Any) -> bool:
    if key.startswith("_") or value is None or value is False or value == _NEUTRAL.get(key, 0):
        return False
    return not (isinstance(value, (str, list, tuple, dict)) and len(value) == 0)


def remark(settings: Mapping[str, Any]) -> str:
    """A sentence on a model's own generation settings, for the reader of a result; '' if they change no text."""
    asked = asked_for(settings)
    if not asked:
        return ""
    named = ", ".join(f"{key} {_brief(value)}" for key, value in asked.items())
    return (
        f"the model's own generation settings ask for {named}: "
        "a server that applies them writes other text; measured without"
    )


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def remark_on_model(model: Any) -> str:
    """`remark` of a loaded model."""
    return remark(model.generation_config.to_diff_dict())


def remark_on_folder(folder: Path) -> str:
    """`remark` of a model folder, read without weights. Raises DraftbenchError if the file is no JSON object.

    Folders of before generation_config.json hold such settings in config.json, where Transformers reads them too.
    """
    path = next(
        (folder / name for name in ("generation_config.json", "config.json") if (folder / name).is_file()), None
    )
    if path is None:
        return ""
    with boundary(f"{path} cannot be read", "repair it, or take the folder again from where it came"):
        settings = read_json(path)
    if not isinstance(settings, dict):
        raise DraftbenchError(f"{path} is not a JSON object", "it holds settings of the model", "repair it")
    return remark(settings)


def _cuda_devices(model: Any) -> list[int]:
    index = model.device.index
    return [0 if index is None else index] if model.device.type == "cuda" else []
