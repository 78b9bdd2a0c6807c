"""From a model's name to a plain folder on this disk, and that folder's fingerprint.

Hub models, GGUF files and packaged assets all become local folders of safetensors, so that
everything after this module knows one kind of model.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from engine.config import ModelSpec
from engine.errors import DraftbenchError
from engine.fileio import content_hash, disk_errors, read_json, sha256_file, write_json
from engine.models.assets import fetch_asset
from engine.paths import cache_dir, resolve_input

# Weights and tokenizer, nothing executable: pickles (.bin, .pt) are never fetched.
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.tiktoken"]
_FINGERPRINTED = (".safetensors", ".json", ".jinja", ".model", ".py")
_RECORDS = ("tuning.json",)  # says how a target was made and measured, and changes nothing it computes


def locate_model(spec: ModelSpec) -> Path:
    """Local folder with `config.json`, safetensors and tokenizer for `spec.model`.

    Fetches and converts where needed. Raises DraftbenchError for what cannot be found.
    """
    name = spec.model
    if name.startswith("asset:"):
        return gguf_as_folder(fetch_asset(name.removeprefix("asset:")))
    if name.startswith("hub:"):
        return _from_hub(name.removeprefix("hub:"), spec.revision, spec.trust_remote_code)
    path = resolve_input(name)
    if path.is_file() and path.suffix == ".gguf":
        return gguf_as_folder(path)
    if path.is_dir() and (path / "config.json").exists():
        return path
    raise DraftbenchError(
        f"{name} is not a model",
        "a model is a folder with config.json and safetensors, or a .gguf file",
        "give such a path, hub:ORG/NAME, or asset:smollm2-135m-instruct",
    )


def locate_adapter(name: str) -> Path:
    """Local folder of a PEFT adapter given as a path or hub:ORG/NAME."""
    folder = _from_hub(name.removeprefix("hub:"), None, False) if name.startswith("hub:") else resolve_input(name)
    if not (folder / "adapter_config.json").exists():
        raise DraftbenchError(
            f"{name} is not a PEFT adapter", "it holds no adapter_config.json", "give the folder PEFT saved"
        )
    if not (folder / "adapter_model.safetensors").exists():
        raise DraftbenchError(
            f"the adapter {name} has no adapter_model.safetensors",
            "pickled weights (.bin) can run code when they are read, so they are not",
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


def gguf_as_folder(path: Path) -> Path:
    """A GGUF file as a plain float32 model folder in the cache, converted once.

    Transformers refuses to save a model it read from GGUF; rebuilding it from its own
    configuration drops the quantisation marks. The folder is addressed by the file's hash.
    """
    folder = cache_dir() / "models" / f"gguf-{sha256_file(path)[:16]}"
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")), disk_errors(folder):
        if not (folder / "config.json").exists():
            _convert_gguf(path, folder)
    return folder


def _convert_gguf(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        quantised = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except Exception as error:  # a stranger's file can break the reader in many ways
        raise DraftbenchError(
            f"{path} could not be read as a GGUF model",
            f"{type(error).__name__}: {error}",
            "check that the file is whole and of an architecture Transformers reads from GGUF",
        ) from error
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict())
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".convert-"))
    try:
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fingerprint(folder: Path) -> str:
    """Hex sha256 over the names and contents of a model folder's files.

    Hashes of large files are remembered by path, size and modification time.
    """
    files = sorted(f for f in folder.iterdir() if f.suffix in _FINGERPRINTED and f.name not in _RECORDS)
    return content_hash([[file.name, _remembered_sha256(file.resolve())] for file in files])


def _remembered_sha256(file: Path) -> str:
    stat = file.stat()
    if stat.st_size < 10_000_000:
        return sha256_file(file)
    key = content_hash([str(file), stat.st_size, stat.st_mtime_ns])
    note = cache_dir() / "fingerprints" / f"{key[:32]}.json"
    if note.exists():
        return str(read_json(note)["sha256"])
    found = sha256_file(file)
    write_json(note, {"file": str(file), "sha256": found})
    return found
