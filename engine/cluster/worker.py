"""The process that does a run on a node: `python -m engine.cluster.worker RUN`, in the home that its environment names.

Its standard input is a pipe that whoever started it holds open. When that process ends, however it does, the pipe
closes and this one ends at once: a run that was sent to a second node must not go on in the first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback

from engine.errors import Cancelled, DraftbenchError
from engine.jobs.queue import is_held
from engine.paths import home
from engine.runs.folder import RunFolder

_LOCK_WAIT_S = 400.0  # longer than a node that lost its driver goes on (engine.cluster.node_actor.SILENCE_S)


def main(run_id: str) -> int:
    """Work on the run; the exit status."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run = RunFolder.open(home(), run_id)
    ends = time.monotonic() + _LOCK_WAIT_S
    while is_held(run.path / ".lock") and time.monotonic() < ends:  # by the process of a node that is just leaving
        time.sleep(0.5)
    from engine.runs.execution import execute  # loads torch

    try:
        execute(home(), run)
    except DraftbenchError as error:
        print(error, file=sys.stderr)
        return 2
    except (Cancelled, KeyboardInterrupt):
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
