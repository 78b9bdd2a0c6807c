"""Several visitors of the live view at once: does each get only their own tokens, and how late is a stop?

    python benchmarks/live_visitors.py --run latest --seconds 60 --visitors 4

Starts `python -m workbench.live` on a free port. Each visitor asks again and again, each time with another prompt and
seed. Every step that arrives must be the beginning of what the same prompt and seed give when decoded alone (computed
before the visitors come). Some answers are stopped after a few rounds; `rounds_late` is the number of rounds in the
final answer beyond those that the visitor had received when Stop was answered. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from gradio_client import Client

from engine.deploy.server_process import free_port
from engine.paths import home
from engine.runs.folder import RunFolder
from workbench.live.conversation import asked
from workbench.live.decode import Ask, decode

PROMPTS = (
    "Why do leaves turn red in autumn?",
    "What is a ribosome?",
    "How do vaccines work?",
    "Why is the sky blue?",
    "为什么天空是蓝色的？",
    "Name three rivers.",
    "What does a mitochondrion do?",
    "Write a line about the sea.",
)


def reference(run: str, asks: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Token ids of every question, decoded alone."""
    whole = []
    for ask in asks:
        settings = {name: value for name, value in ask.items() if name != "turns"}
        *_, live = decode(home(), Ask(asked(ask["turns"]), (run,), **settings), threading.Event())
        whole.append(
            [t.token_id for r in live.sides[0].rounds for t in r.tokens if t.fate in ("accepted", "corrected", "bonus")]
        )
    return whole


class Visitor(threading.Thread):
    """Asks until the time is over and checks every step against what was decoded alone."""

    def __init__(
        self, address: str, run: str, asks: Sequence[dict[str, Any]], whole: list[list[int]], until: float, number: int
    ) -> None:
        super().__init__(daemon=True)
        self.client = Client(address, verbose=False)
        self.run_id, self.asks, self.whole, self.until = run, asks, whole, until
        self.random = random.Random(number)
        self.steps = self.tokens = self.answers = self.foreign = 0
        self.late: list[int] = []
        self.stop_s: list[float] = []
        self.error = ""

    def run(self) -> None:
        try:
            while time.monotonic() < self.until:
                self._ask(self.random.randrange(len(self.asks)), stop=self.random.random() < 0.5)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"

    def _ask(self, number: int, *, stop: bool) -> None:
        ask = self.asks[number]
        job = self.client.submit(
            api_name="/decode", run=self.run_id, run2="", top_p=1.0, top_k=0, compare_plain=False, **ask
        )
        stop_after = self.random.randrange(2, 7) if stop else None
        checked, stopped_at, pressed = 0, None, 0.0
        while not job.done() or checked < len(job.outputs()):
            for _, step in job.outputs()[checked:]:
                checked += 1
                self._check(step, self.whole[number])
            rounds = job.outputs()[-1][1]["sides"][0]["rounds"] if checked else 0
            over = time.monotonic() >= self.until
            if stopped_at is None and ((stop_after and rounds >= stop_after) or (over and checked)):
                pressed = time.monotonic()
                self.client.predict(api_name="/stop")
                stopped_at = max(rounds, *(s["sides"][0]["rounds"] for _, s in job.outputs()))
            time.sleep(0.01)
        _, last = job.result()
        self.answers += 1
        self.tokens += len(last["sides"][0]["token_ids"])
        if stopped_at is not None and last["stage"] == "stopped":
            self.late.append(last["sides"][0]["rounds"] - stopped_at)
            self.stop_s.append(time.monotonic() - pressed)

    def _check(self, step: dict[str, Any], whole: list[int]) -> None:
        if "sides" not in step:
            raise RuntimeError(str(step))
        ids = step["sides"][0]["token_ids"]
        self.steps += 1
        self.foreign += ids != whole[: len(ids)]


def serve(port: int) -> subprocess.Popen[bytes]:
    """The live view in a process of its own, once it answers."""
    process = subprocess.Popen([sys.executable, "-m", "workbench.live", "--port", str(port)], stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/live/", timeout=5).close()
            return process
        except OSError:
            time.sleep(0.1)
    process.kill()
    raise SystemExit("the live view does not answer")


def report(visitors: Sequence[Visitor], seconds: float) -> dict[str, Any]:
    """What the visitors saw, added up."""
    late = [n for v in visitors for n in v.late]
    return {
        "visitors": len(visitors),
        "seconds": round(seconds, 1),
        "answers": [v.answers for v in visitors],
        "steps_checked": sum(v.steps for v in visitors),
        "tokens": [v.tokens for v in visitors],
        "steps_with_foreign_tokens": sum(v.foreign for v in visitors),
        "stops": len(late),
        "rounds_late": {"max": max(late, default=None), "each": late},
        "stop_s_max": round(max((s for v in visitors for s in v.stop_s), default=0.0), 3),
        "errors": [v.error for v in visitors if v.error],
    }


def main() -> None:
    """Let the visitors in and print what they saw; exit status 1 if a token went astray or a stop was late."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="latest")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--visitors", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48)
    given = parser.parse_args()
    run = RunFolder.open(home(), given.run).id
    asks = [
        {"turns": prompt, "seed": 100 + i, "gamma": 3, "temperature": 1.0, "max_new_tokens": given.tokens}
        for i, prompt in enumerate(PROMPTS)
    ]
    whole = reference(run, asks)
    port = free_port()
    server = serve(port)
    try:
        began = time.monotonic()
        visitors = [
            Visitor(f"http://127.0.0.1:{port}/live/", run, asks, whole, began + given.seconds, i)
            for i in range(given.visitors)
        ]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join(given.seconds + 120)
        figures = report(visitors, time.monotonic() - began)
    finally:
        server.terminate()
        server.wait(30)
    print(json.dumps(figures, indent=2))
    late = figures["rounds_late"]["max"] or 0
    sys.exit(1 if figures["steps_with_foreign_tokens"] or figures["errors"] or late > 1 else 0)


if __name__ == "__main__":
    main()
