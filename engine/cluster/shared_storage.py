"""Whether a home can be on storage that every node sees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil

from engine.errors import DraftbenchError
from engine.paths import Home

_OF_ONE_MACHINE = frozenset(
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "tmpfs", "ramfs", "overlay", "squashfs"]
)
_ANSWER_S = 60.0


def check_shared(home: Home, partition: str | None) -> None:
    """Raises DraftbenchError if the home is on a disk of this machine and jobs may run on others.

    A disk of this machine may still be seen by the others, if it is exported from here: then `shared=yes` says so. A
    job looks for the home again before it works.
    """
    kind = file_system(home.root)
    if kind not in _OF_ONE_MACHINE:
        return
    others = _nodes(partition) - {os.uname().nodename, os.uname().nodename.split(".")[0]}
    if others:
        raise DraftbenchError(
            f"the home {home.root} is on a file system of this machine ({kind})",
            f"jobs may run on {', '.join(sorted(others)[:3])}, which would not find their run folders there",
            "set DRAFTBENCH_HOME to a folder on shared storage; if the nodes see this one under the same path, add "
            "shared=yes to the address: slurm://PARTITION?shared=yes",
        )


def file_system(path: Path) -> str:
    """The kind of file system that holds the path, or will; empty if this machine does not say."""
    real = Path(os.path.realpath(path))
    holding = [part for part in psutil.disk_partitions(all=True) if real.is_relative_to(part.mountpoint)]
    # of two mounts on one folder, the later one hides the earlier
    return max(enumerate(holding), key=lambda one: (len(one[1].mountpoint), one[0]))[1].fstype if holding else ""


def _nodes(partition: str | None) -> set[str]:
    """The host names of the nodes that jobs may run on."""
    command = ["sinfo", "--noheader", "--Node", "--format=%n", *([f"--partition={partition}"] if partition else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        raise DraftbenchError(
            "Slurm does not answer", f"sinfo: {said}", "run this where `sinfo` and `sbatch` work, such as a login node"
        ) from None
    nodes = set(done.stdout.split())
    if not nodes:
        raise DraftbenchError(
            f"Slurm has no partition {partition!r}", "a job would never start", "`sinfo` lists the partitions"
        )
    return nodes
