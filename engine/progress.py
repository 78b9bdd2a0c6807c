"""Show the progress of long work, and let it be stopped at a safe point."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from engine.errors import Cancelled
from engine.untrusted.visible import visible

TIMING = "speed"  # the phase whose times any other work on the machine would spoil


class Progress:
    """A bar on standard error, and a hook that the run's status file listens to.

    Work calls `start`, then `advance` at each safe point; `stop_if_asked` raises Cancelled once
    somebody wants the work to end. `quiet` draws nothing; `log` is given every note, also then.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        listen: Callable[[dict[str, Any]], None] | None = None,
        log: Callable[[str], None] | None = None,
        stop_wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._quiet, self._listen, self._log, self._stop_wanted = quiet, listen, log, stop_wanted
        self._bar: Any = None
        self._phase, self._done, self._total, self._unit, self._began = "", 0, 0, "", 0.0

    def start(self, phase: str, total: int, unit: str, done: int = 0) -> None:
        """Begin a phase of `total` units, of which `done` were finished before."""
        self.finish()
        self._phase, self._done, self._total, self._unit, self._began = phase, done, total, unit, time.monotonic()
        if not self._quiet:
            every = 0.5 if sys.stderr.isatty() else 15.0  # few lines in a log file
            self._bar = tqdm(
                total=total,
                initial=done,
                unit=f" {unit}",
                desc=visible(phase),
                mininterval=every,
                file=sys.stderr,
                dynamic_ncols=True,
            )
        self._report({})

    def advance(self, units: int = 1, **numbers: Any) -> None:
        """Count `units` as done; show `numbers` beside the bar, such as the loss or tokens per second."""
        self._done += units
        if self._bar is not None:
            if numbers:
                self._bar.set_postfix(numbers, refresh=False)
            self._bar.update(units)
        self._report(numbers)

    def note(self, text: str) -> None:
        """One line for the person watching, without breaking the bar, and for the log."""
        if self._log is not None:
            self._log(text)
        if not self._quiet:
            tqdm.write(visible(text), file=sys.stderr)

    def finish(self) -> None:
        """End the phase."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @property
    def stop_wanted(self) -> bool:
        """Whether somebody asked the work to end."""
        return self._stop_wanted()

    def stop_if_asked(self) -> None:
        """Raise Cancelled if somebody asked the work to end. Call it where nothing is half-done."""
        if self._stop_wanted():
            self.finish()
            raise Cancelled(self._phase)

    def _report(self, numbers: dict[str, Any]) -> None:
        if self._listen is not None:
            seconds = time.monotonic() - self._began
            self._listen(
                {
                    "phase": self._phase,
                    "done": self._done,
                    "total": self._total,
                    "unit": self._unit,
                    "phase_s": seconds,
                    **numbers,
                }
            )


SILENT = Progress(quiet=True)


_TIME_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def duration(seconds: float) -> str:
    """Format a duration as '7 min' or '2.5 h': as precise as an estimate."""
    for size, unit in _TIME_UNITS:
        if seconds >= size:
            value = seconds / size
            return f"{value:.1f} {unit}" if value < 10 and unit != "min" else f"{value:.0f} {unit}"
    return f"{seconds:.0f} s"
