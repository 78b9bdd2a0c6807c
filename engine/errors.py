"""The one error a user sees: what went wrong, why it matters, what to do instead.

Commands turn it into three lines on standard error and exit status 2; the browser
turns it into a box. Anything else that escapes is a defect of ours and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DraftbenchError(Exception):
    """Bad input or a fault of the machine, told in three parts.

    `what` names the thing and its value, `why` says what it breaks, `fix` what to type
    or change instead.
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


def did_you_mean(wrong: str, choices: Iterable[str]) -> str:
    """'did you mean X?' for the nearest choice, then all choices; for the `fix` part."""
    known = sorted(set(choices))
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(known)}"
