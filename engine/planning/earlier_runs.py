"""How fast earlier runs were on this machine; the time of a new run is scaled from the most similar one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.config.schema import Recipe
from engine.distill.schedule import forward_tokens
from engine.errors import DraftbenchError
from engine.models.load import model_fingerprint, resolve_device
from engine.paths import Home
from engine.records.events import Ended, Evaluation, Started, TrainStep, read_events
from engine.records.provenance import Machine, Provenance
from engine.records.training import Training
from engine.records.values import utc
from engine.runs.folder import RunFolder, run_folders
from engine.runs.provenance import machine
from engine.runs.samples import laid_out

_NEWEST = 200  # runs that are looked at
_READ_FROM = ("config.yaml", "provenance.json", "training.json", "status.json")


@dataclass(frozen=True)
class Pace:
    """The speed of one earlier run: capture and training in tokens per second, measurement in seconds."""

    run: str
    capture_tokens_s: float | None
    fill: float | None  # length of its answers as a share of what they might have had
    train_tokens_s: float | None
    measure_s: float | None
    recipe: Recipe
    target: tuple[str, ...]
    machine: tuple[Any, ...]


def best_pace(home: Home, recipe: Recipe) -> Pace | None:
    """The speed of the most similar run of the same target on this machine, the newest of equals.

    The target must be at hand: it is known by its weights, wherever they lie, as a checkout may have moved.
    """
    here = _machine_key(Machine.model_validate(machine()))
    target = _target_key(recipe, model_fingerprint(recipe.target))
    samples = _samples(home)  # made on another machine, however alike
    newest = [run for run in run_folders(home)[:_NEWEST] if run.id not in samples]
    known = [_pace(run.path, _stamp(run.path)) for run in newest]
    paces = [pace for pace in known if pace and pace.target == target and pace.machine == here]
    # of equals, min takes the first, which is the newest
    return min(paces, key=lambda pace: len(list(differences(recipe, pace.recipe))), default=None)


def _samples(home: Home) -> set[str]:
    with contextlib.suppress(DraftbenchError):
        return laid_out(home)
    return set()


def _machine_key(machine: Machine) -> tuple[Any, ...]:
    return machine.processor, machine.cores, tuple(machine.cuda)


def _target_key(recipe: Recipe, fingerprint: str) -> tuple[Any, ...]:
    spec = recipe.target
    return fingerprint, spec.dtype, spec.device, spec.device_map, spec.tensor_parallel


def _stamp(folder: Path) -> tuple[tuple[int, int], ...]:
    """Time of change and size of the files that a run's speed is read from; shorter where one is missing."""
    stamps = []
    for name in _READ_FROM:
        with contextlib.suppress(OSError):
            stat = (folder / name).stat()
            stamps.append((stat.st_mtime_ns, stat.st_size))
    return tuple(stamps)


@lru_cache(maxsize=2 * _NEWEST)
def _pace(folder: Path, stamp: tuple[tuple[int, int], ...]) -> Pace | None:
    """A run's speed; None if it was not trained or cannot be read. Read again when `stamp` has changed."""
    run = RunFolder(folder)
    if len(stamp) < len(_READ_FROM):
        return None
    try:
        provenance, training, recipe = Provenance.read(folder), Training.read(folder), run.recipe()
        if provenance is None or training is None or provenance.machine is None or not provenance.target_fingerprint:
            return None
        capture = provenance.captures["training"]
        last = capture.last_session
        return Pace(
            run.id,
            None if recipe.capture.server else _ratio(last.tokens, last.seconds),
            _ratio(capture.tokens, capture.prompts * recipe.capture.max_new_tokens),
            _ratio(training.tokens_seen, training.seconds),
            _measure_seconds(run),
            recipe,
            _target_key(recipe, provenance.target_fingerprint),
            _machine_key(provenance.machine),
        )
    except Exception:  # of a run that somebody else may have written: nothing of it is needed
        return None


def _ratio(upper: float | None, lower: float | None) -> float | None:
    ratio = upper / lower if upper and lower else None
    return ratio if ratio is not None and math.isfinite(ratio) and ratio > 0 else None


def _measure_seconds(run: RunFolder) -> float | None:
    """From the last evaluation to the end of the same session; None if the run was not measured in one go."""
    if run.status().state != "done":
        return None
    began = ended = None
    for event in read_events(run.path).events:
        if isinstance(event, TrainStep | Evaluation):
            began, ended = event.at, None
        elif isinstance(event, Started):
            began = None
        elif isinstance(event, Ended) and event.state == "done" and ended is None:
            ended = event.at
    return (utc(ended) - utc(began)).total_seconds() if began and ended else None


def differences(recipe: Recipe, other: Recipe) -> Iterable[str]:
    """The differences that make the other run's speed a worse guess, in words."""
    yield from _other_modes(recipe, other)
    if (recipe.draft.init, recipe.draft.layers) != (other.draft.init, other.draft.layers):
        yield f"its draft has layers: {other.draft.layers}"
    if recipe.draft.lora != other.draft.lora:
        yield _what_is_trained(other)
    if [t.name for t in recipe.train.loss] != [t.name for t in other.train.loss]:
        yield f"its loss is {' + '.join(t.name for t in other.train.loss)}"
    if recipe.train.precision != other.train.precision:
        yield f"its train.precision is {other.train.precision}"
    device = resolve_device(recipe.target.device)
    if (most := forward_tokens(other.train, device)) != forward_tokens(recipe.train, device):
        yield f"its train.micro_batch_tokens is {most}"
    if recipe.measure.against != other.measure.against:
        yield f"its measure.against is {other.measure.against}"
    if recipe.capture.side_by_side != other.capture.side_by_side:
        yield f"its capture.batch_size is {other.capture.batch_size}"


def _what_is_trained(recipe: Recipe) -> str:
    lora = recipe.draft.lora
    return "it trained all weights of its draft" if lora is None else f"it trained an adapter of rank {lora.rank}"


def _other_modes(recipe: Recipe, other: Recipe) -> Iterable[str]:
    """Differences in mode: a stream that is decoded, a draft that writes, or selected positions take other time."""
    ours, theirs = recipe.train, other.train
    if ours.mode != theirs.mode:
        yield f"its train.mode is {theirs.mode}"
    elif ours.mode == "online" and ours.online.stream != theirs.online.stream:
        yield f"its train.online.stream is {theirs.online.stream}"
    elif ours.mode == "on_policy" and ours.on_policy.form != theirs.on_policy.form:
        yield f"its train.on_policy.form is {theirs.on_policy.form}"
    if (ours.selection.share < 1) != (theirs.selection.share < 1):
        yield f"its train.selection.share is {theirs.selection.share:g}"
    if (recipe.capture.server is None) != (other.capture.server is None):
        yield "its answers are the target's own" if other.capture.server is None else "its answers came from a server"
