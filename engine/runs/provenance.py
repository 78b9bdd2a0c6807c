"""Where a result comes from: versions, commit, machine, and hashes of what went in."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Any

import engine
from engine.paths import PROJECT_ROOT
from engine.records.provenance import Machine, MeasuredBy, Provenance, Source

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
    installed = {"python": platform.python_version(), "draftbench": engine.__version__}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def source() -> Source:
    """Commit of the source tree and whether it has changes; empty outside a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(PROJECT_ROOT), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return Source(commit=git("rev-parse", "HEAD"), changed=bool(git("status", "--porcelain", "--", "engine")))
    except (OSError, subprocess.CalledProcessError):
        return Source()


def machine() -> Machine:
    """The processor and accelerator that results were computed on."""
    import torch

    cards = {"cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]}
    return Machine(
        platform=platform.platform(),
        processor=torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        **(cards if torch.cuda.is_available() else {}),
    )


def provenance(**known: Any) -> Provenance:
    """Where a result comes from that is computed now, with the caller's hashes and counts."""
    here = {"command": sys.argv, "versions": versions(), "source": source(), "machine": machine()}
    return Provenance(**{**here, **known})


def measured_by(**known: Any) -> MeasuredBy:
    """Where a measurement comes from that is made now, with the caller's hashes."""
    return MeasuredBy(versions=versions(), source=source(), machine=machine(), **known)
