"""How busy other processes kept the machine during a timing, in cores."""

from __future__ import annotations

import contextlib
import time

import psutil

from engine.records.speed import MachineLoad

_IDLE = ("idle", "iowait")
_COUNTED_TWICE = ("guest", "guest_nice")  # within user and nice
_BEFORE_S = 0.5


def load_of_others(seconds: float = _BEFORE_S) -> float:
    """Cores that other processes keep busy, while this one sleeps for so long.

    The load average of the system will not do: it holds this process's own work of the last minute.
    """
    return psutil.cpu_percent(interval=seconds) / 100 * (psutil.cpu_count() or 1)


class LoadMeter:
    """Cores that other processes keep busy, from its making on, and just before.

    The processor time of the machine without that of this process and those it has started; what a hypervisor took
    counts as other work. The kernel counts anyway, so nothing runs beside the timing.
    """

    def __init__(self) -> None:
        self._before = load_of_others()
        self._began, self._machine, self._own = time.monotonic(), _machine_seconds(), _own_seconds()

    def read(self) -> MachineLoad:
        """The load since the meter was made."""
        others = (_machine_seconds() - self._machine) - (_own_seconds() - self._own)
        during = max(0.0, others) / max(1e-6, time.monotonic() - self._began)
        return MachineLoad(before=self._before, during=during, cores=psutil.cpu_count())


def _machine_seconds() -> float:
    """Processor seconds of all processes since the machine started."""
    times = psutil.cpu_times()._asdict()
    return float(sum(seconds for name, seconds in times.items() if name not in _IDLE + _COUNTED_TWICE))


def _own_seconds() -> float:
    """Those of this process and of its children, also of those that have ended."""
    own = psutil.Process()
    seconds = sum(own.cpu_times()[:4])
    for child in own.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            seconds += sum(child.cpu_times()[:4])
    return seconds
