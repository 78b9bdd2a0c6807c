"""The error that users see: what went wrong, why it matters, and what to do instead.

Commands print it as three lines on standard error and exit with status 2; the browser shows it in a box. Any other
exception that escapes is a defect of Draftbench and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class DraftbenchError(Exception):
    """Bad input or a fault of the machine.

    `what` names the thing and its value, `why` its consequence, and `fix` what to type or change instead.
    """

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        parts = [self.what]
        if self.why:
            parts.append(f"why: {self.why}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        return "\n".join(parts)

    def as_dict(self) -> dict[str, str]:
        """The three parts by name, as `--json` prints them."""
        return {"what": self.what, "why": self.why, "fix": self.fix}


class Cancelled(Exception):
    """SIGTERM or Ctrl-C arrived and the work stopped at a safe point."""


@contextlib.contextmanager
def boundary(what: str, fix: str, why: str = "") -> Iterator[None]:
    """Turn whatever a library raises about a stranger's input into a `DraftbenchError`.

    A list of exception classes is always too short: the reader of a tokenizer, an archive or a template raises what its
    own dependencies raise. The exception's class and first line follow `why`. A DraftbenchError, Cancelled and
    MemoryError pass through, since they already explain themselves.
    """
    try:
        yield
    except (DraftbenchError, Cancelled, MemoryError):
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {first_line(error)}"
        raise DraftbenchError(what, f"{why} ({cause})" if why else cause, fix) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters; 'no message' if it has none.

    A line that only announces the next one ("Class validation error for validator 'x':") is joined with it.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"[:300]
    return lines[0][:300] if lines else "no message"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, CUDA or torch's own allocator had no memory left; only the first has a class without torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def did_you_mean(wrong: str, choices: Iterable[str]) -> str:
    """'did you mean X?' for the nearest choice, then all choices; for the `fix` part."""
    known = sorted(set(choices))
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(known)}"
