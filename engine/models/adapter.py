"""Merge a PEFT adapter into its base, and verify that the merged model computes what the adapted one does.

PEFT loads what fits and warns about the rest, and merging writes into tensors that a tied model uses twice. So every
tensor of the file must be loaded, and the merged model must give the logits of the adapted one.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from engine.errors import DraftbenchError, boundary
from engine.fileio import read_object
from engine.models.folder import SETTINGS_BYTES, check_files

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PROBE_IDS = 24
# Largest difference of merged logits from the adapter's own, as a share of the largest logit: merging rounds each
# weight once more, by 2^-24 of its size in float32 and 2^-9 in bfloat16, and the errors of the layers add up. For the
# adapters of sample_data it is at most 1.4e-6 and 0.019, for tiny random models 1e-6 and 0.04; a wrong merge is off by
# a third.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.08}


def check_adapter(folder: Path, name: str) -> None:
    """Refuse an adapter whose configuration shows that it cannot be merged into its base's weights."""
    check_files(folder)
    settings = read_object(folder / CONFIG, SETTINGS_BYTES)
    kind, task = str(settings.get("peft_type"))[:40], settings.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise _refused(name, f"it was made for the task {str(task)[:40]}, whose output is not a language model's")
    if settings.get("alora_invocation_tokens"):
        raise _refused(name, "it is active only after its invocation tokens, so it cannot be part of the weights")
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    known = {str(getattr(k, "value", k)): k for k in PEFT_TYPE_TO_CONFIG_MAPPING}
    if kind not in known:
        raise _refused(name, f"its type {kind!r} is not known to the installed PEFT")
    fields = {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[known[kind]])}
    newer = sorted(key for key, value in settings.items() if key not in fields and value)
    if newer:
        raise _refused(name, f"its setting {newer[0]} is not known to the installed PEFT, which would ignore it")
    if not hasattr(PEFT_TYPE_TO_TUNER_MAPPING.get(known[kind]), "merge_and_unload"):
        raise _refused(name, f"{kind} adds inputs or modules to the model and cannot be merged into its weights")


def other_base(folder: Path, model: str) -> str | None:
    """The name of an adapter's base, if it is not that of `model`; None if the adapter names no base.

    Adapters fit every base of the same shape, such as the chat version of the one they were trained on, so only the
    name shows it. Paths and capitals are ignored, and a name may be part of the other.
    """
    named = read_object(folder / CONFIG, SETTINGS_BYTES).get("base_model_name_or_path")
    if not isinstance(named, str) or not _plain_name(named) or not _plain_name(model):
        return None
    one, other = _plain_name(named), _plain_name(model)
    return None if one in other or other in one else named[:120]


def _plain_name(model: str) -> str:
    last = re.split(r"[/\\:]", model.rstrip("/\\"))[-1]
    return re.sub(r"[^a-z0-9]", "", last.lower().removesuffix(".gguf"))


def merge_adapter(model: Any, folder: Path, name: str) -> Any:
    """Return `model` with the adapter in `folder` merged into it; `name` is the adapter's name in messages.

    If embeddings and head are one tensor and the adapter changes either, they are untied first, so that each gets its
    own change. Raises DraftbenchError for an adapter whose tensors do not all fit, or whose merged logits differ from
    its own.
    """
    check_adapter(folder, name)
    tied = model.get_output_embeddings() is not None and _tied(model)
    with _boundary(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT warns about is checked here and refused
        adapted = _loaded(model, folder, name)
        ids = _probe_ids(model, adapted)
        expected = _logits(adapted, ids)
        with adapted.disable_adapter():
            alone = _logits(adapted, ids)
        if tied and _touches_ends(adapted):
            _untie(adapted)
        merged = adapted.merge_and_unload(safe_merge=True)
        actual = _logits(merged, ids)
    scale = float(expected.abs().max())
    off = float((actual - expected).abs().max())
    if not off <= _TOLERANCE.get(merged.dtype, 0.08) * max(scale, 1e-6):  # also if either is NaN
        raise _refused(
            name,
            f"merged into its base it gives different logits: they differ by {off:.3g}, the largest is {scale:.3g}",
        )
    if torch.equal(expected, alone) and not _brings_ends(folder):
        raise _refused(
            name, "it changes nothing: its tensors are zero, as before training or after a save that lost them"
        )
    if not _tied(merged):
        merged.config.tie_word_embeddings = False
    return merged


def _loaded(model: Any, folder: Path, name: str) -> Any:
    """Load the adapter beside the model's weights, and check that every tensor of the file was loaded."""
    from peft import PeftConfig, PeftModelForCausalLM
    from safetensors.torch import load_file

    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = True
    stored = load_file(folder / WEIGHTS)
    renamed = getattr(model, "_checkpoint_conversion_mapping", {})  # names from before a family's modules were moved
    adapted = PeftModelForCausalLM(model, config, "default")
    try:
        report = adapted.load_adapter(folder, "default", torch_device=str(model.device), key_mapping=renamed)
    except KeyError as error:  # of a module that the adapter replaces
        raise _refused(name, f"it lacks the tensor {error.args[0] if error.args else '?'}") from error
    for wrong, how in ((report.unexpected_keys, "fit nothing in the model"), (report.missing_keys, "are missing")):
        if wrong:
            raise _refused(name, f"{len(wrong)} of its tensors {how}, such as {min(wrong)}")
    adapted.eval()
    _check_loaded(adapted, stored, name)
    return adapted


def _check_loaded(adapted: Any, stored: dict[str, torch.Tensor], name: str) -> None:
    """Check that each stored tensor is in the model: of two for one parameter (a tied pair) the last would win."""
    from peft import get_peft_model_state_dict

    loaded = get_peft_model_state_dict(adapted, save_embedding_layers=True)
    for key, tensor in stored.items():
        own = loaded.get(key, loaded.get(f"{key}.weight"))
        if own is not None and not torch.allclose(own.cpu(), tensor.to(own.dtype), rtol=0, atol=0, equal_nan=True):
            raise _refused(name, f"{key} differs from the model's tensor after loading")


def _probe_ids(model: Any, adapted: Any) -> torch.Tensor:
    """A few ids from the whole vocabulary, and those that the adapter trained individually."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.linspace(0, rows - 1, min(_PROBE_IDS, rows)).long().tolist()
    own = getattr(adapted.peft_config["default"], "trainable_token_indices", None) or []
    listed = [i for some in own.values() for i in some] if isinstance(own, dict) else list(own)
    return torch.tensor([[*ids, *[i for i in listed[:_PROBE_IDS] if 0 <= i < rows]]], device=model.device)


@torch.no_grad()
def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    model.eval()
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()


def _tied(model: Any) -> bool:
    head, rows = model.get_output_embeddings(), model.get_input_embeddings()
    return _weight(head) is _weight(rows)


def _weight(module: Any) -> Any:
    """The weight of a layer, without the wrappers of PEFT."""
    while not isinstance(getattr(module, "weight", None), torch.nn.Parameter) or hasattr(module, "base_layer"):
        inner = getattr(module, "base_layer", None) or getattr(module, "original_module", None)
        if inner is None:
            break
        module = inner
    return module.weight


def _brings_ends(folder: Path) -> bool:
    """Whether the file holds complete embeddings or a head, which stay in the model when the adapter is disabled."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return any("lora_" not in name and "modules_to_save" not in name for name in file.keys())  # noqa: SIM118


def _touches_ends(adapted: Any) -> bool:
    base = adapted.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    return any(hasattr(end, "base_layer") or hasattr(end, "original_module") for end in ends)


def _untie(adapted: Any) -> None:
    """Give the head a copy of the tensor that it shares with the embeddings, so that each is changed separately."""
    base = adapted.get_base_model()
    head = base.get_output_embeddings()
    while hasattr(head, "base_layer") or hasattr(head, "original_module"):
        head = head.base_layer if hasattr(head, "base_layer") else head.original_module
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False


def _boundary(name: str) -> Any:
    return boundary(
        f"could not load the model with adapter {name}",
        "use the adapter that PEFT saved for this base, with all its files",
        "PEFT cannot load it into the model",
    )


def _refused(name: str, why: str) -> DraftbenchError:
    return DraftbenchError(
        f"could not load the model with adapter {name}: {why}",
        "the target would be another model than the recipe names",
        "use the adapter that PEFT saved for this base; one that cannot be merged here can only be used if its "
        "authors publish the merged model",
    )
