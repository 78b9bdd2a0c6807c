"""The efforts at which an offline run is compared with an online one.

A stream shows every query once, offline training shows it several times: "offline wins" partly means "more epochs". So
the modes are compared three times and the results are kept apart: at each mode's own schedule, at equal target tokens,
and at equal optimiser steps. What a pair of runs is equal in follows from what their training really did
(`training.json`), not from their settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from engine.findings.runs import SEEDS, SELECTION, Facts, Run, is_schedule

OWN, TOKENS, STEPS = "own schedule", "equal target tokens", "equal optimiser steps"
EFFORTS = (OWN, TOKENS, STEPS)
TOLERANCE = 0.02
# One pass over the queries is one pass: the target's own answers in a decoded stream are of other lengths than those
# that were captured, and runs made before an epoch ended with its last answer went a little beyond it.
_ONE_PASS_TOLERANCE = 0.10
MEANING = {
    OWN: "offline as it is usually trained (several epochs) against one pass of the stream",
    TOKENS: "offline stopped after as many of the target's tokens as the stream passed",
    STEPS: "offline stopped after as many optimiser steps as the stream made",
}


def efforts_of(online: Run, offline: Run) -> set[str]:
    """The kinds of effort at which the two may be compared.

    Equal tokens: `tokens_seen` within 2%, or one epoch whose tokens are within 10%. Equal steps: `steps_done` within
    2%. A pair may be both; only one that is neither counts as the offline run's own schedule.
    """
    equal = set()
    if _near(online, offline, "tokens_seen", _ONE_PASS_TOLERANCE if _is_one_pass(offline.facts) else TOLERANCE):
        equal.add(TOKENS)
    if _near(online, offline, "steps_done", TOLERANCE):
        equal.add(STEPS)
    return equal or {OWN}


def _near(a: Run, b: Run, key: str, tolerance: float) -> bool:
    one, two = a.effort.get(key), b.effort.get(key)
    return bool(one and two and abs(float(two) / float(one) - 1) <= tolerance)


def _is_one_pass(facts: Facts) -> bool:
    return facts.get("train.epochs") in ("1", "1.0") and facts.get("train.max_steps") in (None, "null")


def schedule(run: Run) -> str:
    """How long and in which steps the run was trained, seeds apart, and on which tokens: equal text, equal schedule."""
    kept = (key for key in run.facts if is_schedule(key) or key.startswith(SELECTION))
    settings = {key: run.facts[key] for key in kept if key not in SEEDS}
    return repr(sorted(settings.items()))


class Schedules:
    """Ranks the schedules of training, the same way everywhere.

    Of schedules that could be compared in one place only one counts, or hyper-parameter trials would outvote the rest:
    first one that was not cut to an online run's effort, then the one that the most runs have, then the one of the
    newest run. `cut`: ids of runs that were cut to an online run's effort, with the kinds of effort.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        """`runs`: newest first."""
        self._count = Counter(schedule(run) for run in runs)
        self._age = {run.id: place for place, run in enumerate(runs)}  # 0 is the newest
        self.cut = self._cut(runs)

    def rank(self, run: Run) -> tuple[bool, int, int]:
        """Sorts the usual schedule first."""
        return (run.id in self.cut, -self._count[schedule(run)], self._age[run.id])

    def _cut(self, runs: Sequence[Run]) -> dict[str, set[str]]:
        """Offline runs that were cut to the effort of an online run of their loss and queries.

        That a run was cut shows only beside one alike that was trained longer, on a schedule that no fewer runs have.
        Otherwise a stream that happens to be as long would make offline's own schedule look like a cut one.
        """
        groups: dict[str, list[Run]] = {}
        for run in runs:
            kept = {k: v for k, v in run.facts.items() if not is_schedule(k) and k not in ("train.mode", *SEEDS)}
            groups.setdefault(repr(sorted(kept.items())), []).append(run)
        cut: dict[str, set[str]] = {}
        for group in groups.values():
            streams = [run for run in group if run.facts["train.mode"] == "online"]
            offline = [run for run in group if run.facts["train.mode"] == "offline"]
            for run in offline if streams else []:
                kinds = set().union(*(efforts_of(one, run) for one in streams)) - {OWN}
                count = self._count[schedule(run)]
                if kinds and any(_is_longer(one, run) and self._count[schedule(one)] >= count for one in offline):
                    cut[run.id] = kinds
        return cut


def _is_longer(a: Run, b: Run) -> bool:
    """Whether `a` was trained on more target tokens, or where these are not known in more steps."""
    for key in ("tokens_seen", "steps_done"):
        one, two = a.effort.get(key), b.effort.get(key)
        if one and two:
            return float(one) > float(two) * (1 + TOLERANCE)
    return False
