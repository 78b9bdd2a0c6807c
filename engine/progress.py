"""Show the progress of long work, and let it be stopped at a safe point."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from engine.errors import Cancelled
from engine.untrusted.visible import visible

TIMING = "speed"  # the phase whose times any other work on the machine would spoil
PARTS = ("capture", "training", "measurement")
"""What a run does, one after the other."""
_PART_OF = {"capture": 0, "join": 0, "train": 1, "measure": 2, TIMING: 2, "certificate": 2}


class Clock:
    """How long a run will still take: the present part by its pace, those that follow by what they were expected to.

    `expected`: seconds of `PARTS`, those that are done left out or 0. `why`: why others are not known.
    """

    def __init__(self, expected: Mapping[str, float], why: str = "") -> None:
        self._expected, self._why, self._part, self._began = expected, why, -1, 0.0

    def unknown(self) -> str:
        """Why seconds are not known."""
        missing = [part for part in PARTS[max(0, self._part) :] if part not in self._expected]
        if missing and self._why:
            return self._why
        return f"no earlier run here says how long the {' and the '.join(missing)} takes" if missing else ""

    def left(self, phase: str, share: float, of_phase: float | None) -> float | None:
        """Seconds left for the whole run; None where they are not known.

        share: of the present phase that is done. of_phase: seconds that it still takes at its pace; None without one.
        """
        part = _PART_OF.get(phase)
        if part is None:
            return None
        if part != self._part:
            self._part, self._began = part, time.monotonic()
        expected, later = self._expected.get(PARTS[part]), [self._expected.get(name) for name in PARTS[part + 1 :]]
        if any(seconds is None for seconds in later):
            return None
        if part == 1:  # a phase of its own, whose steps are alike
            here = of_phase if of_phase is not None else None if expected is None else expected * (1 - share)
        elif expected is None:  # other phases of the part may follow
            return None
        else:
            here = max(of_phase or 0.0, expected - (time.monotonic() - self._began))
        return None if here is None else here + sum(seconds or 0.0 for seconds in later)


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
        self._before = 0  # units that were done when the phase began
        self._clock: Clock | None = None

    def expect(self, seconds: Mapping[str, float], why: str = "") -> None:
        """Say what the parts of the run, as `PARTS` names them, are expected to take: then each report says what is
        left of the whole run, or why that is not known."""
        self._clock = Clock(seconds, why)

    def start(self, phase: str, total: int, unit: str, done: int = 0) -> None:
        """Begin a phase of `total` units, of which `done` were finished before."""
        self.finish()
        self._before = done
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
            left = self._left()
            numbers_shown = numbers if left is None else {**numbers, "whole run": f"{duration(left)} left"}
            if numbers_shown:
                self._bar.set_postfix(numbers_shown, refresh=False)
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

    def _left(self) -> float | None:
        """Seconds left for the whole run."""
        if self._clock is None:
            return None
        seconds, units = time.monotonic() - self._began, self._done - self._before
        pace = seconds / units * (self._total - self._done) if units > 0 else None
        return self._clock.left(self._phase, self._done / self._total if self._total else 0.0, pace)

    def _of_run(self) -> dict[str, Any]:
        """What is left of the whole run, or why that is not known."""
        if (left := self._left()) is not None:
            return {"left_s": left}
        why = self._clock.unknown() if self._clock is not None else ""
        return {"left_unknown": why} if why else {}

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
                    **self._of_run(),
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
