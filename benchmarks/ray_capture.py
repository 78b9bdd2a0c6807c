"""Is a capture that a Ray cluster makes in shards, with nodes and the driver killed, the bytes that one worker writes?

    python benchmarks/ray_capture.py                        # a tiny random target, 400 prompts in 8 shards; 5 minutes
    python benchmarks/ray_capture.py --apart                # the nodes do not see the home: answers come as rows
    python benchmarks/ray_capture.py --client               # through Ray Client, ray://HOST:PORT
    python benchmarks/ray_capture.py --model asset:smollm2-135m-instruct --tokens 24   # the embedded target

Three nodes of one core each are started on this machine (`ray.cluster_utils.Cluster`), in float32 and one prompt at a
time. Two nodes are killed at a random moment, and replaced; the command that waits for the capture is killed once
(kill -9) and typed again. The same recipe is captured in another home by one process. Prints where each kill came, the
answers that were at home when the driver was killed, and the sha256 of the answers and of the signal in both homes;
ends with status 0 if they are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.fileio import read_json, read_lines, sha256_file
from engine.paths import Home
from tests.conftest import byte_tokenizer, tiny_llama

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 1800
NODES, KILLED_NODES = 3, 2


def make_recipe(folder: Path, prompts: int, tokens: int, model: str | None) -> Path:
    """A recipe whose training capture has so many prompts; a tiny target with a byte tokenizer unless it names one."""
    if model is None:
        tiny_llama().save_pretrained(folder / "target")
        byte_tokenizer().save_pretrained(folder / "target")
    for name, count in (("train", prompts), ("heldout", 4)):
        rows = [{"id": f"{name}-{i:04}", "prompt": f"{name}: what is {i} times {i * i + 7}?"} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "sharded",
        "target": {"model": model or str(folder / "target"), "dtype": "float32", "device": "cpu"},
        "draft": {"init": "random", "layers": 2},
        "prompts": {"train": str(folder / "train.jsonl"), "heldout": str(folder / "heldout.jsonl")},
        "capture": {"max_new_tokens": tokens, "batch_size": 1},
        "train": {"eval_prompts": 1},
        "measure": {"temperatures": [0.0], "max_new_tokens": 8},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def environment(home: Path) -> dict[str, str]:
    """One thread, since sums that are shared out among more round in another order."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "DRAFTBENCH_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def capturing(home: Path, recipe: Path, *options: str) -> subprocess.Popen[bytes]:
    """`draftbench capture` in a home; its output goes to `output.txt` there."""
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "engine", "capture", str(recipe), *options]
    with open(home / "output.txt", "ab") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment(home), stdout=output, stderr=output)


def finished(process: subprocess.Popen[bytes], home: Path) -> None:
    """Wait for a command that must succeed; its words are the message if it does not."""
    if process.wait(TIMEOUT_S) != 0:
        raise SystemExit(f"exit status {process.returncode}\n{(home / 'output.txt').read_text()[-4000:]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class LocalCluster:
    """Nodes of one core on this machine, beside a head without any; `folder` must have a short name."""

    def __init__(self, folder: Path, nodes: int, node_home: Path | None, client: bool) -> None:
        from ray.cluster_utils import Cluster

        os.environ.update(environment(folder / "no-home"))  # the nodes have it from here
        folder.mkdir(exist_ok=True)
        os.environ["RAY_TMPDIR"] = str(folder)  # the address of this cluster is no other program's business
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  by itself Ray's workers give way to all others
        if node_home is not None:
            os.environ["DRAFTBENCH_NODE_HOME"] = str(node_home)
        self.cluster = Cluster()
        self.common = {"include_dashboard": False, "object_store_memory": 100_000_000}
        client_port = free_port()
        more = {"ray_client_server_port": client_port} if client else {}
        self.cluster.add_node(num_cpus=0, **more, **self.common)
        self.nodes = [self.add() for _ in range(nodes)]
        self.address = f"ray://127.0.0.1:{client_port}" if client else f"ray-gcs://{self.cluster.address}"
        os.environ.pop("DRAFTBENCH_NODE_HOME", None)
        self.node_home = node_home

    def add(self) -> Any:
        """One more node."""
        if getattr(self, "node_home", None) is not None:
            os.environ["DRAFTBENCH_NODE_HOME"] = str(self.node_home)
        return self.cluster.add_node(num_cpus=1, **self.common)

    def replace(self, index: int) -> None:
        """Kill a node as a power cut would, and start another."""
        self.cluster.remove_node(self.nodes.pop(index), allow_graceful=False)
        self.nodes.append(self.add())

    def end(self) -> None:
        """End all processes of the cluster."""
        self.cluster.shutdown()


def shard_lines(home: Home) -> list[str]:
    """The ids of all answers that are in shards or joined captures, one that is in two files twice."""
    files = [*home.captures.glob("*/answers.jsonl"), *home.captures.glob("*/shards/*/answers.jsonl")]
    return [line["id"] for path in files for line in read_lines(path)]


def wait_for_answers(home: Home, count: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until so many answers are at home; False if the command ended before."""
    until = time.monotonic() + TIMEOUT_S
    while len(shard_lines(home)) < count:
        if process.poll() is not None or time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def training_capture(home: Home, prompts: int) -> Path:
    return next(done.parent for done in home.captures.glob("*/done.json") if read_json(done)["prompts"] == prompts)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Capture alone and in a cluster whose nodes are killed; the figures."""
    rng = random.Random(options.seed)
    recipe = make_recipe(folder, options.prompts, options.tokens, options.model)
    alone, shared = Home(folder / "alone"), Home(folder / "shared")
    began = time.monotonic()
    finished(capturing(alone.root, recipe), alone.root)
    figures: dict[str, Any] = {"alone_s": round(time.monotonic() - began, 1)}
    cluster = LocalCluster(folder / "ray", NODES, folder / "nodes" if options.apart else None, options.client)
    kept = 0
    try:
        arguments = ["--shards", str(options.shards), "--on", cluster.address]
        process = capturing(shared.root, recipe, *arguments)
        began, fell = time.monotonic(), []
        step = options.prompts // (KILLED_NODES + 2)
        for kill in ("node", "driver", "node")[: 0 if options.no_kills else 3]:
            if not wait_for_answers(shared, len(set(shard_lines(shared))) + rng.randint(1, step), process):
                break
            fell.append(f"{kill} at {len(set(shard_lines(shared)))} answers")
            print(f"  killing a {kill} at {fell[-1]}", file=sys.stderr)
            if kill == "node":
                cluster.replace(rng.randrange(NODES))
            else:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kept = len(set(shard_lines(shared)))
                process = capturing(shared.root, recipe, *arguments)
        finished(process, shared.root)
        figures |= {"sharded_s": round(time.monotonic() - began, 1), "killed": fell, "kept_at_kill": kept}
    finally:
        cluster.end()
    folders = [training_capture(home, options.prompts) for home in (alone, shared)]
    for name in ("answers.jsonl", "signal.bin"):
        figures[name] = [sha256_file(one / name) for one in folders]
    figures["same address"] = folders[0].name == folders[1].name
    figures["equal"] = figures["same address"] and all(
        len(set(figures[name])) == 1 for name in ("answers.jsonl", "signal.bin")
    )
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark in a temporary folder; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of an answer")
    parser.add_argument("--model", help="a target instead of the tiny one")
    parser.add_argument("--apart", action="store_true", help="nodes that do not see the home")
    parser.add_argument("--client", action="store_true", help="reach the cluster through Ray Client")
    parser.add_argument("--no-kills", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and nodes")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="dbrc-"))  # a short name: Ray's sockets lie in it
    try:
        figures = measure(folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures, indent=2))
    return 0 if figures["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
