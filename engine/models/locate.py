"""Resolve a model's name to a local folder, and compute the folder's fingerprint.

Hub models, GGUF files and packaged assets all become local folders of safetensors, so that the rest of the engine knows
one kind of model.
"""

from __future__ import annotations

from pathlib import Path

from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError, boundary
from engine.fileio import content_hash
from engine.models.adapter import CONFIG as ADAPTER_CONFIG
from engine.models.adapter import WEIGHTS as ADAPTER_WEIGHTS
from engine.models.assets import use_asset
from engine.models.folder import check_files
from engine.models.gguf import gguf_as_folder
from engine.models.hashes import hashes_of_model
from engine.paths import resolve_input

# Weights and tokenizer, nothing executable: pickles (.bin, .pt) are never fetched.
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.tiktoken"]


def locate_model(spec: ModelSpec) -> Path:
    """Return the local folder with `config.json`, safetensors and tokenizer of `spec.model`.

    Fetches and converts it if necessary. Raises DraftbenchError if there is no such model.
    """
    name = spec.model
    if name.startswith("asset:"):
        return gguf_as_folder(use_asset(name.removeprefix("asset:")))
    if name.startswith("hub:"):
        return _from_hub(name.removeprefix("hub:"), spec.revision, spec.trust_remote_code)
    path = local_model(name)
    return gguf_as_folder(path) if path.is_file() else path


def local_model(name: str) -> Path:
    """The folder or GGUF file of a model on this machine. Raises DraftbenchError if it is none."""
    path = _readable(name)
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_dir() and (path / ADAPTER_CONFIG).is_file():
        # Transformers would load another base with this adapter, the one that the adapter's settings name
        raise DraftbenchError(
            f"{name} is a PEFT adapter" + (" and a model" if (path / "config.json").exists() else ""),
            f"it holds {ADAPTER_CONFIG}, and a target is a base model with or without an adapter beside it",
            "give the base as target.model and this folder as target.adapter; if the adapter was merged into the "
            f"weights here, take {ADAPTER_CONFIG} out of the folder",
        )
    if path.is_dir() and (path / "config.json").is_file():
        return path
    raise DraftbenchError(
        f"{name} is not a model",
        "a model is a folder with config.json and safetensors, or a .gguf file",
        "give such a path, hub:ORG/NAME, or asset:smollm2-135m-instruct",
    )


def gguf_source(spec: ModelSpec) -> Path | None:
    """The GGUF file that the model of a specification is read from; None if it comes from safetensors."""
    if spec.model.startswith("asset:"):
        return use_asset(spec.model.removeprefix("asset:"))
    if spec.model.startswith("hub:"):
        return None
    path = _readable(spec.model)
    return path if path.is_file() and path.suffix == ".gguf" else None


def _readable(name: str) -> Path:
    """The file or folder of that name."""
    with boundary(f"{name[:200]!r} cannot be looked at", "check the path"):
        return resolve_input(name)


def locate_adapter(name: str) -> Path:
    """Local folder of a PEFT adapter given as a path or hub:ORG/NAME."""
    folder = _from_hub(name.removeprefix("hub:"), None, False) if name.startswith("hub:") else _readable(name)
    if not folder.is_dir() or not (folder / ADAPTER_CONFIG).exists():
        raise DraftbenchError(
            f"{name} is not a PEFT adapter", "it holds no adapter_config.json", "give the folder PEFT saved"
        )
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise DraftbenchError(
            f"the adapter {name} has no adapter_model.safetensors",
            "pickled weights (.bin) are not read, because they can run code",
            "save it again with PEFT's save_pretrained, which writes safetensors",
        )
    return folder


def _from_hub(name: str, revision: str | None, with_code: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = [*_HUB_FILES, "*.py"] if with_code else _HUB_FILES
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many unrelated types
        raise DraftbenchError(
            f"could not get hub:{name}" + (f" at revision {revision}" if revision else ""),
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            "check the name and the network (HF_TOKEN for gated models), or give a local folder",
        ) from error


def fingerprint(folder: Path) -> str:
    """Hex sha256 over the names and contents of a model folder's files.

    Hashes of large files are remembered, see `engine.models.hashes`.
    """
    return content_hash([[name, sha256] for name, sha256 in _hashes(folder).items()])


def model_files(spec: ModelSpec) -> dict[str, str]:
    """Name -> sha256 of the files that a model is read from; an adapter's have `adapter/` before the name.

    Of a GGUF file, not of its conversion, into which Transformers writes its own version.
    """
    source = gguf_source(spec)
    files = _hashes(locate_model(spec)) if source is None else hashes_of_model(source)
    adapter = {} if spec.adapter is None else _hashes(locate_adapter(spec.adapter))
    return files | {f"adapter/{name}": sha256 for name, sha256 in adapter.items()}


def hub_commit(spec: ModelSpec) -> str | None:
    """The commit of a hub model that is used here; None for models of other origin."""
    return locate_model(spec).name if spec.model.startswith("hub:") else None


def _hashes(folder: Path) -> dict[str, str]:
    check_files(folder)
    with boundary(f"{folder} cannot be read", "check its files and their names"):
        return hashes_of_model(folder)
