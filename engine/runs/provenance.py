"""Where a result comes from: versions, commit, machine, and hashes of what went in."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import engine
from engine.paths import PROJECT_ROOT
from engine.records.documents import whole_or_empty

_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "duckdb",
)


def versions() -> dict[str, str]:
    """Versions of Python, this project and the libraries that shape a result."""
    found = {"python": platform.python_version(), "draftbench": engine.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> dict[str, Any]:
    """Commit of the source tree and whether it has changes; empty outside a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(PROJECT_ROOT), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "--", "engine"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def machine() -> dict[str, Any]:
    """The processor and accelerator that results were computed on."""
    import torch

    found: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["cuda"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def provenance(**hashes: Any) -> dict[str, Any]:
    """Everything above, with the caller's hashes and counts."""
    return {"command": sys.argv, "versions": versions(), "source": git_commit(), "machine": machine(), **hashes}


def measured_by(**what: Any) -> dict[str, Any]:
    """What a measurement comes from: as `provenance`, without the command."""
    return {"versions": versions(), "source": git_commit(), "machine": machine(), **what}


def provenance_of(folder: Path) -> dict[str, Any]:
    """What a run folder says of where its results come from; {} where that is missing or cannot be read."""
    return whole_or_empty(folder / "provenance.json")
