"""Rounding a GGUF file to 4 bits with llama.cpp's own program: the package `gguf` cannot make K-quants."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from engine.errors import DraftbenchError

PROGRAM = "llama-quantize"
_LONGEST_S = 3600.0


def quantiser() -> Path | None:
    """The program on the path that rounds GGUF files; None if llama.cpp is not installed."""
    program = shutil.which(PROGRAM)
    return Path(program) if program else None


def quantise(source: Path, file: Path) -> list[str]:
    """Write `source`, a GGUF file in f16, to the new file `file` in q4_k_m; return what the program warned of.

    It warns of tensors that keep more bits, because their rows are no multiple of 256. Raises DraftbenchError if there
    is no program for it, or it fails.
    """
    program = quantiser()
    if program is None:
        raise DraftbenchError(
            f"nothing here makes q4_k_m: {PROGRAM} is not on the path",
            "the package gguf has no quantiser for it",
            "install llama.cpp, or give --gguf q8_0",
        )
    try:
        done = subprocess.run(
            [str(program), str(source), str(file), "Q4_K_M"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DraftbenchError(f"{program} could not be run", str(error)[:300], "give --gguf q8_0") from error
    if done.returncode != 0 or not file.is_file():
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise DraftbenchError(f"{program} failed with status {done.returncode}", last[:300], "give --gguf q8_0")
    said = f"{done.stdout}\n{done.stderr}".splitlines()
    return [f"{PROGRAM}: {line.partition('WARNING: ')[2][:300]}" for line in said if "WARNING: " in line]
