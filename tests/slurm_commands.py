"""Stand-ins for Slurm's commands, for tests that submit by submitit's real Slurm executor.

They start nothing: a test says what becomes of a job. Each call is kept, and so is each batch script.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

COMMAND = """#!{python}
import json, pathlib, re, sys
folder, name, words = pathlib.Path({folder!r}), {name!r}, sys.argv[1:]
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps([name, *words]) + "\\n")
jobs = json.loads((folder / "jobs").read_text())
if (folder / f"no-{{name}}").exists():
    sys.exit((folder / f"no-{{name}}").read_text() or 1)
if name == "sbatch":
    script = pathlib.Path(words[0]).read_text()
    number = 1 + len(list(folder.glob("*.sh")))
    (folder / f"{{number}}.sh").write_text(script)
    array = re.search("--array=0-([0-9]+)", script)
    names = [f"{{number}}_{{i}}" for i in range(int(array[1]) + 1)] if array else [str(number)]
    jobs |= dict.fromkeys(names, "PENDING")
    print(f"Submitted batch job {{number}}")
elif name == "squeue":
    print("\\n".join(f"{{job}}|{{state}}" for job, state in jobs.items()))
elif name == "scancel" and words[-1] not in jobs:
    sys.exit("scancel: error: Invalid job id specified")
elif name == "scancel" and len(words) == 1:
    jobs[words[0]] = "CANCELLED"
elif name == "sinfo":
    print((folder / "nodes").read_text())
(folder / "jobs").write_text(json.dumps(jobs))
"""


class SlurmCommands:
    """What Slurm's commands were asked, and what they answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "jobs").write_text("{}")
        (folder / "nodes").write_text("n1\nn2\n")
        for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun", "sacct"):
            path = folder / "bin" / name
            path.write_text(COMMAND.format(python=sys.executable, folder=str(folder), name=name))
            path.chmod(0o755)
        self.fail("sacct", "Slurm accounting storage is disabled")

    @property
    def jobs(self) -> dict[str, str]:
        """Job -> state."""
        jobs: dict[str, str] = json.loads((self.folder / "jobs").read_text())
        return jobs

    def become(self, job: str, state: str | None) -> None:
        """Give a job a state; None: Slurm has forgotten it."""
        jobs = self.jobs | ({} if state is None else {job: state})
        if state is None:
            jobs.pop(job)
        (self.folder / "jobs").write_text(json.dumps(jobs))

    def script(self, number: int) -> str:
        """The batch script of a job."""
        return (self.folder / f"{number}.sh").read_text()

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of each call of a command."""
        path = self.folder / "calls"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line[1:] for line in lines if line[0] == name]

    def fail(self, name: str, words: str = "") -> None:
        """Let a command fail from now on, with these words on its error stream."""
        (self.folder / f"no-{name}").write_text(words)

    def work_again(self, name: str) -> None:
        (self.folder / f"no-{name}").unlink()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCommands:
    """Slurm's commands at the front of PATH."""
    commands = SlurmCommands(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{commands.folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return commands
