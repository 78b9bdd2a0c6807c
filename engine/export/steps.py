"""The steps of an export, as whoever waits for it reads them."""

from __future__ import annotations

from engine.progress import Progress

LIBRARIES = "loading PyTorch and Transformers"  # several seconds, and more where other work goes on
PAIR, LOAD, WRITE = "checking the pair and the folder", "loading target and draft", "writing the folder"
TEXT, RATES, GREEDY = "text to measure on", "acceptance of the run's draft and of the folder", "greedy texts of both"
STEPS = (LIBRARIES, PAIR, LOAD, WRITE, TEXT, RATES, GREEDY)
_WRITTEN = STEPS.index(WRITE) + 1  # steps of an export that is not measured
_SIGN = "step "


def begin(progress: Progress, step: str, *, check: bool) -> None:
    """Say which step begins; `check`: what is written is measured afterwards. Raises Cancelled if asked to stop."""
    progress.stop_if_asked()
    steps = STEPS if check else STEPS[:_WRITTEN]
    progress.note(f"{_SIGN}{steps.index(step) + 1} of {len(steps)}: {step}")


def reached(output: str) -> tuple[int, int, str] | None:
    """Number of the step that began last, number of all, and its words, from what was printed; None before the first.

    Words are one of `STEPS`: whatever else the output holds is not believed.
    """
    for line in reversed(output.splitlines()):
        for step in STEPS:
            for total in (_WRITTEN, len(STEPS)):
                if line.strip() == f"{_SIGN}{STEPS.index(step) + 1} of {total}: {step}":
                    return STEPS.index(step) + 1, total, step
    return None
