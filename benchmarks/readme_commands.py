"""Run README's commands as pasted, one after another, in a fresh clone with an empty home.

    python benchmarks/readme_commands.py /some/empty/folder                 # all: an hour on two idle cores
    python benchmarks/readme_commands.py FOLDER --list                      # list the commands
    python benchmarks/readme_commands.py FOLDER --skip-slow --only 'data|export'
    python benchmarks/readme_commands.py FOLDER --python .venv              # use this environment: no make

FOLDER gets a clone of the committed tree, HOME, DRAFTBENCH_HOME and DRAFTBENCH_CACHE of its own, a log of each
command, and done.jsonl: a second call continues after the commands that succeeded. A command that serves forever
succeeds once the page that it prints answers; it is then stopped. What README asks the user to bring is provided:
`my-logs.jsonl` is written; a server over the embedded model (benchmarks/model_server.py) is started, and its port and
name replace those in README; `served probe` asks the server that README's export for llama.cpp starts; RUN is a
sample. "when both are done" waits; what needs a CUDA device is left out where there is none. Prints a table; exits
with status 1 unless every command exits with 0 or serves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PROGRAMS = ("make", "draftbench", "streamlit", "source", "python", "pip", "git", "torchrun")
_SERVES = re.compile(r"^(make run|streamlit run|draftbench live)\b")
_SLOW = re.compile(r"^(make test|torchrun|draftbench (run|tune|data magpie|study (?!show)(?!.*--plan)))\b")
_SAMPLE = "serve-chinese"  # what stands for RUN; README trains a second serve-biology
_CUDA = "benchmarks/gpu.py"
_NEVER = re.compile(
    r"VARIABLE|RUN$|cancel RUN|--resume RUN|[A-Z]{4,}/|HOST|\.\.\."
)  # inline lines that are patterns, not commands


@dataclass(frozen=True)
class Command:
    """One command of README as pasted, and the comment after it."""

    line: int
    text: str
    comment: str


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status or 'served', and seconds."""

    command: str
    ended: int | str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.ended in (0, "served")


def commands(text: str) -> list[Command]:
    """README's commands in order: indented or fenced lines and whole commands in backticks, each once.

    Those about some RUN come last, when there is one.
    """
    unordered = [*_blocks(text), *_inline(text)]
    ordered = sorted(unordered, key=lambda command: ("RUN" in command.text, command.line))  # by then there is a run
    first: dict[str, Command] = {}
    for command in ordered:
        first.setdefault(command.text, command)
    return list(first.values())


def _blocks(text: str) -> Iterator[Command]:
    lines, number, fence = text.splitlines(), 0, ""
    while number < len(lines):
        line, at = lines[number], number + 1
        number += 1
        if line.startswith("```"):
            fence = "" if fence else line[3:].strip() or "text"
            continue
        if not (fence in ("sh", "bash", "shell", "console") or (not fence and line.startswith("    "))):
            continue
        pasted = line.strip().removeprefix("$ ")
        while pasted.endswith("\\") and number < len(lines):
            pasted = f"{pasted[:-1].rstrip()} {lines[number].strip()}"
            number += 1
        command, _, comment = pasted.partition(" #")
        if command.split(" ")[0] in _PROGRAMS:
            yield Command(at, command.strip(), comment.strip(" #"))


def _inline(text: str) -> Iterator[Command]:
    """Commands in backticks that can be pasted; patterns such as `draftbench runs cancel RUN` are left out."""
    outside = re.sub(r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
    for match in re.finditer(r"(?<!`)`([a-z][^`]+)`", outside):
        command = " ".join(match[1].split())
        words = command.split(" ")
        if words[0] in _PROGRAMS and len(words) > 1 and words[1] not in ("RUN",) and not _NEVER.search(command):
            yield Command(outside[: match.start()].count("\n") + 1, command, "")


class Place:
    """The folder of one trial: clone, homes, logs, what is done."""

    def __init__(self, folder: Path, environment: Path | None) -> None:
        self.folder, self.clone, self.environment = folder, folder / "clone", environment
        self.done = folder / "done.jsonl"
        self.servers: list[subprocess.Popen[bytes]] = []
        self.ports: dict[str, int] = {}

    def prepare(self) -> None:
        """The clone and the empty homes, once."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        (self.folder / "home").mkdir(exist_ok=True)
        if not self.clone.exists():
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.clone)], check=True)
        if self.environment is not None and not (self.clone / ".venv").exists():
            (self.clone / ".venv").symlink_to(self.environment.resolve())
        logs = self.clone / "my-logs.jsonl"
        if not logs.exists():
            logs.write_text(
                "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made_logs()), encoding="utf-8"
            )

    def variables(self) -> dict[str, str]:
        """A user's environment on the first day: nothing of the caller's homes, its package index kept."""
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("DRAFTBENCH_", "XDG_", "VIRTUAL_ENV", "PYTHON", "HF_"))
        }
        settings = Path.home() / ".config" / "pip" / "pip.conf"
        if "PIP_CONFIG_FILE" not in kept and settings.is_file():
            kept["PIP_CONFIG_FILE"] = str(settings)
        paths = {
            "HOME": self.folder / "home",
            "DRAFTBENCH_HOME": self.folder / "results",
            "DRAFTBENCH_CACHE": self.folder / "cache",
        }
        port = str(free_port())
        more = {"PATH": f"{self.clone / '.venv/bin'}:{kept['PATH']}", "PORT": port, "STREAMLIT_SERVER_PORT": port}
        if self.environment is not None:  # its editable install is of another tree
            more["PYTHONPATH"] = str(self.clone)
        return {**kept, **{k: str(v) for k, v in paths.items()}, **more, "STREAMLIT_SERVER_HEADLESS": "true"}

    def finished(self) -> dict[str, Outcome]:
        """What ended well in an earlier call."""
        if not self.done.exists():
            return {}
        outcomes = [Outcome(**json.loads(line)) for line in self.done.read_text(encoding="utf-8").splitlines()]
        return {outcome.command: outcome for outcome in outcomes if outcome.ok}

    def note(self, outcome: Outcome) -> None:
        with self.done.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")

    def as_a_user_would(self, command: Command) -> str:
        """The command with what README leaves to its reader filled in."""
        text = re.sub(r"\bRUN\b", _SAMPLE, command.text)
        if "capture.server.model=NAME" in text:
            text = text.replace("capture.server.model=NAME", "capture.server.model=smollm2")
            return text.replace("http://127.0.0.1:8000/v1", f"http://127.0.0.1:{self.model_server()}/v1")
        if text.startswith("draftbench served probe"):
            return text.replace("http://127.0.0.1:8000/v1", f"http://127.0.0.1:{self.draft_server()}/v1")
        return text

    def model_server(self) -> int:
        """The port of a server over the embedded model, started when first needed."""
        python = self.clone / ".venv/bin/python"
        return self.serve("model_server", lambda port: [str(python), "benchmarks/model_server.py", "--port", str(port)])

    def draft_server(self) -> int:
        """The port of llama-server with a draft, as README exported both before, started when first needed."""
        export = self.clone / "biology-gguf"
        target = export / "target-f16.gguf"
        return self.serve("draft_server", lambda port: ["sh", f"{export}/serve.sh", str(target), "--port", str(port)])

    def serve(self, name: str, command: Callable[[int], list[str]]) -> int:
        """The port of a server that is started when first needed."""
        if name not in self.ports:
            port = free_port()
            log = (self.folder / "logs" / f"{name}.log").open("wb")
            variables = {**self.variables(), "PYTHONPATH": str(self.clone)}
            for programs in (self.folder / "cache" / "servers").glob("llama.cpp-*/bin"):
                variables["PATH"] = f"{programs}:{variables['PATH']}"
            server = subprocess.Popen(
                command(port), cwd=self.clone, env=variables, stdout=log, stderr=log, start_new_session=True
            )
            self.servers.append(server)
            wait_for(f"http://127.0.0.1:{port}/v1/models", server, 300)
            self.ports[name] = port
        return self.ports[name]

    def close(self) -> None:
        for server in self.servers:
            stop(server)


def made_logs() -> list[dict[str, object]]:
    """Conversations as a chat server logs them, with a mail address, a repeat and a tool in them."""
    asked = (
        "How do I reset my password",
        "Where is my order",
        "Can I change the delivery address",
        "What does it cost",
    )
    rows: list[dict[str, object]] = []
    for number in range(60):
        question = f"{asked[number % 4]}, case {number * 37}? Write to user{number}@example.com."
        messages: list[dict[str, str]] = [{"role": "user", "content": question}]
        if number % 3 == 0:
            messages += [
                {"role": "assistant", "content": "Which one?"},
                {"role": "user", "content": f"The one of day {number}."},
            ]
        messages.append({"role": "assistant", "content": "Done."})
        row: dict[str, object] = {"id": f"log-{number}", "messages": messages}
        if number % 5 == 0:
            schema = {"type": "object", "properties": {"number": {"type": "integer"}}}
            row["tools"] = [
                {
                    "type": "function",
                    "function": {"name": "find_order", "description": "Finds it.", "parameters": schema},
                }
            ]
        rows.append(row)
    return rows


def run(place: Place, command: Command, limit_s: float) -> Outcome:
    """Run one command as a shell would, in the clone; its output goes to the logs."""
    text = place.as_a_user_would(command)
    name = re.sub(r"[^a-z0-9]+", "-", command.text.lower())[:60].strip("-")
    log = place.folder / "logs" / f"{command.line:03}-{name}.log"
    began = time.monotonic()
    if "when both are done" in command.comment:
        wait_for_runs(place, limit_s)
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", text],
            cwd=place.clone,
            env=place.variables(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        ended: int | str
        try:
            ended = served(process, log, limit_s) if _SERVES.match(text) else process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            ended = f"over {limit_s:.0f} s"
        finally:
            stop(process)
            if _SERVES.match(text):  # what make or a shell left behind in its group
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return Outcome(command.text, ended, round(time.monotonic() - began, 1))


def served(process: subprocess.Popen[bytes], log: Path, limit_s: float) -> int | str:
    """'served' once the address that the command prints answers with a page; its exit status if it ends before."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if process.poll() is not None:
            return process.returncode or "ended without serving"
        printed = log.read_text(encoding="utf-8", errors="replace")
        for port in re.findall(r"http://(?:localhost|127\.0\.0\.1):(\d+)", printed):
            if page(f"http://127.0.0.1:{port}/") and page(f"http://127.0.0.1:{port}/"):
                return "served"
        time.sleep(1)
    raise subprocess.TimeoutExpired(process.args, limit_s)


def page(url: str) -> bool:
    """Whether a GET of the address answers 200 with something in it."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200 and answer.read(100))
    except OSError:
        return False


def wait_for(url: str, process: subprocess.Popen[bytes], limit_s: float) -> None:
    """Until the address answers. Raises RuntimeError if it does not."""
    end = time.monotonic() + limit_s
    while not page(url):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"no answer from {url}: see logs/")
        time.sleep(0.5)


def wait_for_runs(place: Place, limit_s: float) -> None:
    """Until no run is queued or running, as `draftbench runs` shows."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        shown = subprocess.run(
            ["bash", "-c", "draftbench runs --json"],
            cwd=place.clone,
            env=place.variables(),
            capture_output=True,
            text=True,
        )
        if shown.returncode or not re.search(r'"state": "(queued|running)"', shown.stdout):
            return
        time.sleep(5)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started, politely first. Queued runs have a session of their own and continue."""
    for how, patience_s in ((signal.SIGINT, 15), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def table(outcomes: Sequence[Outcome]) -> str:
    """A line a command: exit, seconds, what was pasted."""
    rows = [f"{o.ended!s:>10} {o.seconds:>8.1f} s  {o.command}" for o in outcomes]
    good = sum(o.ok for o in outcomes)
    return "\n".join(
        [f"{'exit':>10} {'seconds':>10}  command", *rows, f"{good} of {len(outcomes)} exit 0 or are served"]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty folder, or that of an earlier call")
    parser.add_argument("--only", default="", help="commands that match this regular expression")
    parser.add_argument("--skip", default="(?!)", help="all but those that match this one")
    parser.add_argument("--skip-slow", action="store_true", help="leave out training, tuning, studies and make test")
    parser.add_argument("--limit", type=float, default=3600, help="seconds a command may take")
    parser.add_argument("--python", type=Path, help="a virtual environment to use in place of a new one; skips make")
    parser.add_argument("--again", action="store_true", help="also what ended well before")
    parser.add_argument("--list", action="store_true", help="print what would run")
    options = parser.parse_args()
    selected = [
        command
        for command in commands((ROOT / "README.md").read_text(encoding="utf-8"))
        if re.search(options.only, command.text)
        and not re.search(options.skip, command.text)
        and not (options.skip_slow and _SLOW.match(command.text))
        and not (options.python and command.text.startswith("make "))
    ]
    if not Path("/dev/nvidia0").exists():
        selected = [command for command in selected if _CUDA not in command.text]
    if options.python:  # of what `make run` does first, the part that is not the environment
        selected.insert(0, Command(0, "draftbench fetch", ""))
    if options.list:
        print("\n".join(f"README.md:{c.line}: {c.text}" + (f"   # {c.comment}" if c.comment else "") for c in selected))
        return 0
    if shutil.which("git") is None:
        parser.error("git is needed to clone the tree")
    place = Place(options.folder.absolute(), options.python)
    place.prepare()
    before = {} if options.again else place.finished()
    outcomes = []
    try:
        for command in selected:
            outcome = before.get(command.text) or run(place, command, options.limit)
            outcomes.append(outcome)
            if command.text not in before:
                place.note(outcome)
                print(
                    f"{outcome.ended!s:>10} {outcome.seconds:>8.1f} s  {outcome.command}", file=sys.stderr, flush=True
                )
    finally:
        place.close()
    print(table(outcomes))
    return int(not all(outcome.ok for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
