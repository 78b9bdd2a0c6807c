"""Targets and their drafts, loaded once for all visitors, and the single thread that computes with them."""

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
from workbench.live.drafts import target_key

if TYPE_CHECKING:  # torch takes seconds to load: not before a visitor decodes
    from engine.config.schema import ModelSpec
    from engine.models.draft import Draft
    from engine.models.load import LoadedModel

T = TypeVar("T")
_MOST_DRAFTS = 6  # cached per target while nobody uses them

# One thread computes, one round at a time, first come first served: several at once would compete for the cores, and
# each visitor's timing would include the others' work.
_turns = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")


def in_turn(work: Callable[[], T]) -> T:
    """Run `work` in the decoding thread, after everything that was submitted before it."""
    return _turns.submit(work).result()


@dataclass
class Pair:
    """A target and the requested drafts, in the order of the request."""

    target: LoadedModel
    drafts: list[Draft]
    notes: list[str]
    """What there is to say of the runs' target."""


@dataclass
class _Kept:
    target: LoadedModel
    drafts: dict[str, Draft] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    users: int = 0


class Pairs:
    """The cache. The target in use stays loaded; loading another one drops those that nobody uses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    @contextlib.contextmanager
    def use(self, home: Home, run_ids: Sequence[str]) -> Iterator[Pair]:
        """Yield the runs' drafts with their common target, and keep them in memory until the caller is done.

        Raises DraftbenchError for an unknown run, a run without a draft or that began with another target than is there
        now, and drafts with different targets.
        """
        runs = [RunFolder.open(home, run_id) for run_id in run_ids]
        key = _target_of(runs)
        with self._lock:
            kept = self._target(key, runs[0])
            drafts = [self._draft(kept, run) for run in runs]
            notes = [kept.notes[run.id] for run in runs if kept.notes[run.id]]
            kept.users += 1
        try:
            yield Pair(kept.target, drafts, list(dict.fromkeys(notes)))
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
        from engine.runs.began_with import check_target

        if run.id not in kept.notes:
            kept.notes[run.id] = check_target(run, run.recipe().target, kept.target.tokenizer)
        card = best_draft(run) / "draft.json"
        key = f"{card} {card.stat().st_mtime_ns}"  # training again replaces the draft
        if key not in kept.drafts:
            if len(kept.drafts) >= _MOST_DRAFTS and kept.users == 0:
                kept.drafts.clear()
            kept.drafts[key] = load_draft(card.parent, kept.target)
            in_turn(lambda: _warm_up(kept.target, kept.drafts[key]))
        return kept.drafts[key]


def _warm_up(target: LoadedModel, draft: Draft) -> None:
    """Decode a few rounds untimed: the first forward passes of a model are slow and would distort its speed."""
    from engine.decode.sampling import Sampling
    from engine.decode.settings import DecodeSettings, FixedLength
    from engine.decode.speculative import plain_decode, speculative_decode

    settings = DecodeSettings(Sampling(0.0), FixedLength(2), 6, frozenset())
    prompt = [sorted(target.stop_ids)[0] if target.stop_ids else 0] * 4
    list(speculative_decode(target.model, draft.model, [prompt], settings))
    list(plain_decode(target.model, [prompt], settings))


def _target_of(runs: Sequence[RunFolder]) -> str:
    """A key of the runs' common target."""
    for run in runs:
        best_draft(run)  # raises an error that says how to get one
    keys = [target_key(run) for run in runs]
    if len(set(keys)) > 1:
        names = [run.recipe().target.label for run in runs]
        raise DraftbenchError(
            f"{runs[0].id} and {runs[1].id} have different targets",
            f"{names[0]} and {names[1]}: their answers cannot be compared",
            "choose two drafts with the same target",
        )
    return keys[0] + _files_of(runs[0].recipe().target)


def _files_of(spec: ModelSpec) -> str:
    """The hashes of a target's files on this machine: a target that was replaced is loaded again."""
    from engine.models.locate import model_files

    on_hub = any(name.startswith("hub:") for name in (spec.model, spec.adapter or ""))
    return "" if on_hub else str(model_files(spec))


PAIRS = Pairs()
