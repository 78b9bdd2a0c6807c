"""What works on a node for one run: an actor that starts the run's process, looks after it and sends news of it.

The driver asks and the node answers, so nothing has to reach the driver by itself. A node that sees the home (a token
file says so) works in it. Elsewhere, and where the node's `DRAFTBENCH_NODE_HOME` names a folder, it works in a home
of its own and hands over what changes. Nothing here loads torch: the actor starts in a second.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.cluster.node import differing_build, missing_files
from engine.cluster.shared_home import node_folder, sees_home
from engine.cluster.transfer import Outbox, lay_out
from engine.errors import DraftbenchError, first_line
from engine.jobs.queue import OUTPUT, last_lines
from engine.paths import PROJECT_ROOT, Home
from engine.runs.faults import explain
from engine.runs.process import this_host

SILENCE_S = 300.0  # a driver that has not asked for so long is gone, or cannot be reached: the run ends here


class NodeActor:
    """One run on one node. The methods are called in the order `prepare`, `begin`, then `look` and `stop`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._outbox: Outbox | None = None
        self._asked = time.monotonic()
        self._home = Home(Path())
        self._cache = Path()
        self._alive: FileLock | None = None
        self._order: dict[str, Any] = {}
        self._output_from = 0
        threading.Thread(target=self._end_in_silence, daemon=True).start()

    def prepare(self, order: dict[str, Any]) -> dict[str, Any]:
        """Whether this node can do the run of an order, and what of the captures it would need.

        Plain values in both directions: another version of Draftbench must be able to say that it is one.
        """
        node, node_id = this_host(), _node_id()
        self._order = order
        refusal = differing_build(order["build"], node)
        if refusal is not None:
            return {"node": node, "node_id": node_id, "refusal": refusal, "for_all": True}
        refusal = missing_files(order["files"], node)
        if refusal is not None:
            return {"node": node, "node_id": node_id, "refusal": refusal, "for_all": False}
        shared = sees_home(Path(order["home"]), order["token"])
        missing: list[str] = []
        try:
            if shared:
                self._home = Home(Path(order["home"]))
                _check_writable(self._home.run(order["run"]))
            else:
                self._begin_home(order)
                missing = [address for address in order["captures"] if not (self._cache / address).is_dir()]
        except (DraftbenchError, OSError) as error:  # of this node's disk: another node may have room
            return {"node": node, "node_id": node_id, "refusal": _no_room(error, node), "for_all": True}
        return {"node": node, "node_id": node_id, "refusal": None, "shared": shared, "missing": missing}

    def begin(self, cargo: dict[str, Any]) -> None:
        """Lay out what the driver sent, if anything, and start the process."""
        run = self._home.run(self._order["run"])
        if self._alive is not None:
            self._unpack(cargo)
            self._outbox = Outbox(self._home, self._order["run"])
            self._outbox.mark_as_sent()
        path = run / OUTPUT
        self._output_from = path.stat().st_size if path.exists() else 0
        with open(path, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.cluster.worker", self._order["run"]],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=PROJECT_ROOT,
                env=self._environment(),
                start_new_session=True,
            )

    def look(self) -> dict[str, Any]:
        """`ended`: the exit status or None, `words`: the last lines of output then, `changes`: what is new for home."""
        self._asked = time.monotonic()
        assert self._process is not None
        ended = self._process.poll()  # before the files are looked at: what follows the end is all there is
        changes = self._outbox.changes() if self._outbox is not None else None
        words = ""
        if ended is not None:
            words = last_lines(self._home.run(self._order["run"]) / OUTPUT, self._output_from)
            self._keep_captures()
        return {"ended": ended, "words": words, "changes": changes}

    def stop(self) -> None:
        """Ask the process to stop at its next safe point; a second time, to stop at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def leave(self) -> None:
        """Remove the run from the node's home; captures that are whole stay for the next run."""
        if self._alive is not None:
            shutil.rmtree(self._home.root, ignore_errors=True)
            self._alive.release()

    def _begin_home(self, order: dict[str, Any]) -> None:
        root = node_folder(order["token"])
        self._cache = root / "captures"
        self._cache.mkdir(exist_ok=True)
        _clear_abandoned(root / "attempts")
        home = root / "attempts" / f"{order['run']}-{secrets.token_hex(4)}"
        home.mkdir(parents=True)
        self._alive = FileLock(f"{home}.alive")
        self._alive.acquire(timeout=0)
        self._home = Home(home)

    def _unpack(self, cargo: dict[str, Any]) -> None:
        import ray

        home = self._home
        for run_id, bundled in cargo["runs"].items():
            lay_out(bundled, home.run(run_id))
        if cargo["allowed_keys"] is not None:
            path = home.root / "allowed-keys.json"
            path.write_bytes(cargo["allowed_keys"])
            path.chmod(0o600)
        for address, (reference,) in cargo["captures"].items():
            lay_out(ray.get(reference), home.captures / address)
        for address in self._order["captures"]:
            if address not in cargo["captures"] and (self._cache / address).is_dir():
                shutil.copytree(self._cache / address, home.captures / address, copy_function=os.link)
        self._keep_captures()

    def _keep_captures(self) -> None:
        """Keep whole captures for later runs on this node, as links to the same bytes."""
        for folder in self._home.captures.glob("*") if self._alive is not None else ():
            if (folder / "done.json").exists() and not (self._cache / folder.name).exists():
                begun = self._cache / f".{folder.name}-{secrets.token_hex(4)}"
                shutil.copytree(folder, begun, copy_function=os.link, ignore=shutil.ignore_patterns(".*"))
                with contextlib.suppress(OSError):  # another run has just kept it
                    begun.rename(self._cache / folder.name)
                shutil.rmtree(begun, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        """That of the node, with this home and as many threads as cores were asked for; cards only if asked for."""
        threads = str(self._order["cpus"])
        cards = {} if self._order["gpus"] else {"CUDA_VISIBLE_DEVICES": ""}
        # not `os.environ["PYTHONPATH"]` alone: Ray adds the driver's folders to the path of this process only
        path = os.pathsep.join(dict.fromkeys([str(PROJECT_ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        own = {
            "DRAFTBENCH_HOME": str(self._home.root),
            "OMP_NUM_THREADS": threads,
            "PYTHONPATH": path.strip(os.pathsep),
        }
        return {**os.environ, **own, **cards}

    def _end_in_silence(self) -> None:
        while time.monotonic() - self._asked < SILENCE_S:
            time.sleep(5)
        if self._process is not None:
            self._process.kill()
        os._exit(1)


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise DraftbenchError(
            f"not allowed to write {folder}", "the node sees the home, and may only read it there", ""
        )


def _no_room(error: DraftbenchError | OSError, node: str) -> dict[str, Any]:
    """Why a node has no folder to work in, as the parts of a DraftbenchError."""
    explained = explain(error) or DraftbenchError(first_line(error))
    return {
        "what": f"node {node} has no folder to work in: {explained.what}",
        "why": explained.why,
        "fix": "free or correct it there, or set DRAFTBENCH_NODE_HOME on the node to another folder",
    }


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _clear_abandoned(attempts: Path) -> None:
    """Remove the homes of actors that were killed."""
    for mark in attempts.glob("*.alive"):
        with contextlib.suppress(Timeout, OSError), FileLock(mark).acquire(timeout=0):
            shutil.rmtree(mark.with_suffix(""), ignore_errors=True)
            mark.unlink(missing_ok=True)
