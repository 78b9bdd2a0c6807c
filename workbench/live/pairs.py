"""Targets with their drafts in memory, loaded once for all visitors, and the one thread that computes with them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from engine.errors import DraftbenchError
from engine.paths import Home
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder

if TYPE_CHECKING:  # torch takes seconds to load: not before a visitor decodes
    from engine.models.draft import Draft
    from engine.models.load import LoadedModel

T = TypeVar("T")
_MOST_DRAFTS = 6  # kept for one target when nobody uses them

# One thread computes, one round at a time, in the order of asking: several at once would fight for the processors,
# and each visitor's seconds would hold the others' work.
_turns = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")


def in_turn(work: Callable[[], T]) -> T:
    """Do a piece of work when its turn comes; who asks again waits behind those who asked meanwhile."""
    return _turns.submit(work).result()


@dataclass
class Pair:
    """A target and the drafts that were asked for, in their order."""

    target: LoadedModel
    drafts: list[Draft]


@dataclass
class _Kept:
    target: LoadedModel
    drafts: dict[str, Draft] = field(default_factory=dict)
    users: int = 0


class Pairs:
    """The cache. One target stays loaded; another one's coming lets it go when nobody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    @contextlib.contextmanager
    def use(self, home: Home, run_ids: Sequence[str]) -> Iterator[Pair]:
        """The runs' drafts with their common target, held in memory until the caller is done.

        Raises DraftbenchError for an unknown run, one without a draft, and drafts of different targets.
        """
        runs = [RunFolder.open(home, run_id) for run_id in run_ids]
        key = _target_of(runs)
        with self._lock:
            kept = self._target(key, runs[0])
            drafts = [self._draft(kept, run) for run in runs]
            kept.users += 1
        try:
            yield Pair(kept.target, drafts)
        finally:
            with self._lock:
                kept.users -= 1

    def _target(self, key: str, run: RunFolder) -> _Kept:
        if key not in self._kept:
            from engine.models.head import check_head
            from engine.models.load import load_model

            for other in [name for name, kept in self._kept.items() if kept.users == 0]:
                del self._kept[other]
            target = load_model(run.recipe().target)
            check_head(target.model)
            self._kept[key] = _Kept(target)
        return self._kept[key]

    def _draft(self, kept: _Kept, run: RunFolder) -> Draft:
        from engine.models.draft import load_draft

        card = best_draft(run) / "draft.json"
        key = f"{card} {card.stat().st_mtime_ns}"  # a run trained again has another draft
        if key not in kept.drafts:
            if len(kept.drafts) >= _MOST_DRAFTS and kept.users == 0:
                kept.drafts.clear()
            kept.drafts[key] = load_draft(card.parent, kept.target)
            in_turn(lambda: _warm_up(kept.target, kept.drafts[key]))
        return kept.drafts[key]


def _warm_up(target: LoadedModel, draft: Draft) -> None:
    """A few rounds for nobody: the first forwards of a model are slow, and would count as its speed."""
    from engine.decode.sampling import Sampling
    from engine.decode.settings import DecodeSettings, FixedLength
    from engine.decode.speculative import plain_decode, speculative_decode

    settings = DecodeSettings(Sampling(0.0), FixedLength(2), 6, frozenset())
    prompt = [sorted(target.stop_ids)[0] if target.stop_ids else 0] * 4
    list(speculative_decode(target.model, draft.model, [prompt], settings))
    list(plain_decode(target.model, [prompt], settings))


def _target_of(runs: Sequence[RunFolder]) -> str:
    """What the runs' target is loaded from: equal for runs that can share it."""
    for run in runs:
        best_draft(run)  # or the error that says how to get one
    targets = [run.recipe().target for run in runs]
    if any(target != targets[0] for target in targets):
        raise DraftbenchError(
            f"{runs[0].id} and {runs[1].id} have different targets",
            f"{targets[0].model} and {targets[1].model}: their answers could not be compared",
            "choose two drafts of one target",
        )
    return targets[0].model_dump_json()


PAIRS = Pairs()
