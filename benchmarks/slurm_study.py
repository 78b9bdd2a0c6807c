"""A study on a real Slurm whose jobs and nodes are killed: does it end with the results of one run here, undisturbed?

    apt-get install --no-install-recommends slurm-wlm munge
    python benchmarks/slurm_study.py

Needs root and Debian's Slurm, and about ten minutes. Starts a Slurm of its own on the loopback interface: a controller
and two nodes, each in namespaces of its own, so that it has a host name and process ids of its own as another machine
would. A study of six cells on a tiny random pair is sent to it with `draftbench study`. While it is worked on,

  a job's process is killed (SIGKILL), and a job by `scancel`,
  a job is put back into the queue by Slurm, as for a more important one,
  a job gets the signal of its time limit,
  a node dies with all its processes, and comes back,
  the command `draftbench study` is killed and called again,
  a run is cancelled, and resumed by calling the study again.

At the end every cell must be done once, each with one run, and everything but clocks must equal the same study by the
local queue bit for bit: weights, curves, metrics and tables; so must the captures. Prints a line per event and check.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import kill_study
from engine.paths import Home
from engine.records.slurm_job import SlurmJob
from engine.runs.folder import RunFolder

ROOT = kill_study.ROOT
PLACE = "slurm://cpu?shared=yes"
PORTS = {"slurmctld": 17917, "n1": 17918, "n2": 17919}
WAIT_S = 600.0
CONFIGURATION = """
ClusterName=proof
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[slurmctld]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
KillWait=15
SlurmdTimeout=20
TCPTimeout=2
NodeName=n1 NodeHostname=n1 NodeAddr=127.0.0.1 Port={ports[n1]} CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname=n2 NodeAddr=127.0.0.1 Port={ports[n2]} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=INFINITE DefaultTime=30 State=UP
"""


@dataclass
class Slurm:
    """A controller and two nodes on this machine."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        for name in ("munge", "state"):
            (self.folder / name).mkdir()
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        conf = self.folder / "slurm.conf"
        conf.write_text(CONFIGURATION.format(host=os.uname().nodename, folder=self.folder, ports=PORTS))
        os.environ["SLURM_CONF"] = str(conf)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost {os.uname().nodename} n1 n2\n")
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munge = [f"--{option}={self.folder / 'munge' / name}" for option, name in files.items()]
        self._spawn("munged", "munged", "--foreground", "--force", *munge)
        time.sleep(1)
        self._spawn("slurmctld", "slurmctld", "-D")
        for node in ("n1", "n2"):
            self.start_node(node)
        until(lambda: said("sinfo", "-h", "-o", "%T %D") == "idle 2", "two idle nodes")

    def start_node(self, node: str) -> None:
        inside = f"hostname {node} && mount --bind {self.folder}/hosts /etc/hosts && exec slurmd -D -N {node}"
        self._spawn(node, "unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside)

    def kill_process(self, job: str) -> None:
        """SIGKILL to the process that works in a job; `scancel --signal=KILL` would cancel the job instead."""
        for node in ("n1", "n2"):
            for process in psutil.Process(self.processes[node].pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    number, part = (process.environ().get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
                    own = f"{number}_{part}" if number else process.environ().get("SLURM_JOB_ID")
                    if own == job and process.cmdline()[1:4] == ["-u", "-m", "submitit.core._submit"]:
                        process.kill()

    def kill_node(self, node: str) -> None:
        """As a power cut: the first process of the node's namespace dies, and all others with it."""
        for child in psutil.Process(self.processes[node].pid).children():
            child.kill()
        self.processes.pop(node).wait()

    def _spawn(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as output:
            self.processes[name] = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def stop(self) -> None:
        for node in [name for name in self.processes if name in ("n1", "n2")]:
            self.kill_node(node)
        for name in reversed(list(self.processes)):
            process = self.processes.pop(name)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


@contextlib.contextmanager
def slurm() -> Iterator[Slurm]:
    """A Slurm that ends with the block, whatever happens in it."""
    with tempfile.TemporaryDirectory(prefix="slurm-study-", ignore_cleanup_errors=True) as folder:
        cluster = Slurm(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def until(true: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if value := true():
            return value
        time.sleep(0.2)
    raise SystemExit(f"it did not come to {what}")


def runs(home: Home) -> list[RunFolder]:
    folders = [RunFolder(path) for path in home.runs.glob("*") if not path.name.startswith(".")]
    return sorted(folders, key=lambda run: run.id)


def at_work(home: Home, node: str | None = None) -> RunFolder | None:
    """A run that trains now, on that node if one is named."""
    for run in runs(home):
        status = run.status()
        trains = status.state == "running" and status.phase == "train" and status.host in ("n1", "n2")
        if trains and status.host == (node or status.host) and slurm_says(job_of(run)) == "RUNNING":
            return run
    return None


def job_of(run: RunFolder) -> str:
    return SlurmJob.read_or_empty(run.path).job


def slurm_says(job: str) -> str:
    return said("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")


def disturb(home: Home, recipe: Path, cluster: Slurm) -> Iterator[str]:
    """Every disturbance in turn, each while a run trains; what was done, a sentence each."""

    def training(node: str | None = None) -> RunFolder:
        run: RunFolder = until(lambda: at_work(home, node), f"a run that trains on {node or 'a node'}")
        return run

    study = kill_study.call(home, recipe)
    run = training()
    cluster.kill_process(job_of(run))
    yield f"killed the process of {run.id}"
    until(lambda: SlurmJob.read_or_empty(run.path).lost == 1, "a run that is submitted again")
    study.send_signal(signal.SIGKILL)
    study.wait()
    yield "killed the command"
    study = kill_study.call(home, recipe)
    run = training()
    said("scontrol", "requeue", job_of(run))
    yield f"Slurm put the job of {run.id} back into its queue"
    run = training()
    said("timeout", "5", "scancel", "--signal=USR2", job_of(run))  # waits for an answer until the job runs again
    until(lambda: SlurmJob.read_or_empty(run.path).ended_early == 1, "a job that queues itself again")
    yield f"the job of {run.id} reached its time limit"
    run = training()
    said("scancel", job_of(run))
    yield f"somebody cancelled the job of {run.id} by scancel"
    run = training("n2")
    cluster.kill_node("n2")
    yield f"node n2 died with {run.id}"
    until(lambda: "down" in said("sinfo", "-h", "-n", "n2", "-o", "%T"), "a node that Slurm sees is down")
    cluster.start_node("n2")
    yield "node n2 came back"
    run = training()
    told = subprocess.run(
        [sys.executable, "-m", "engine", "runs", "cancel", run.id],
        cwd=ROOT,
        env={**os.environ, "DRAFTBENCH_HOME": str(home.root)},
        check=True,
        capture_output=True,
        text=True,
    )
    yield told.stdout.strip()
    study.wait(WAIT_S)
    yield f"the study ended with exit status {study.returncode}, {run.id} is {run.status().state}"


def measure(prompts: int, epochs: int) -> dict[str, Any]:
    """One study by the local queue, one by a Slurm that is disturbed; the figures."""
    with tempfile.TemporaryDirectory(prefix="slurm-homes-", ignore_cleanup_errors=True) as named, slurm() as cluster:
        folder = Path(named)
        recipe = kill_study.make_study(folder, prompts, epochs)
        alone, broken = Home(folder / "alone"), Home(folder / "broken")
        kill_study.finish(kill_study.call(alone, recipe), alone)
        print("the study by the local queue is done", file=sys.stderr)
        os.environ["DRAFTBENCH_PLACE"] = PLACE
        events = []
        try:
            for event in disturb(broken, recipe, cluster):
                print(f"\n  {time.strftime('%H:%M:%S')} {event}", file=sys.stderr)
                events.append(event)
        except BaseException:
            for run in runs(broken):
                print(run.id, run.status(), (run.path / "log.txt").read_text(), sep="\n", file=sys.stderr)
            raise
        kill_study.finish(kill_study.call(broken, recipe), broken)
        mine, theirs = kill_study.results(broken, recipe), kill_study.results(alone, recipe)
        differs = {name: kill_study.differing(mine.get(name), theirs[name]) for name in theirs}
        states = [run.status().state for run in runs(broken)]
        return {
            "events": events,
            "cells": differs,
            "checks": {
                "every cell done": len(mine) == len(theirs) == kill_study.CELLS,
                "each cell one run": states == ["done"] * kill_study.CELLS,
                "all that is no clock bit-identical": bool(differs) and not any(differs.values()),
                "captures byte-identical": kill_study.captures(broken) == kill_study.captures(alone),
            },
        }


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=40, help="training prompts")
    parser.add_argument("--epochs", type=int, default=40, help="of the offline cells")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing that was started here is left behind
    os.environ["DRAFTBENCH_SAMPLES"] = "0"
    figures = measure(**options)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        for name, differs in figures["cells"].items():
            print(f"NO  {name}: {', '.join(differs)} differ" if differs else f"ok  {name}")
        print("\n".join(f"{'ok' if ok else 'NO':4}{what}" for what, ok in figures["checks"].items()))
    return 0 if all(figures["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
