"""What people say about a run: a title, tags, a note, pinned, archived, the baseline.

Kept beside the run's own files in `labels.json`, because a recipe says what a run was made
from and must never change. A run without that file is labelled by its recipe.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from filelock import FileLock

from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import disk_errors, write_json
from engine.paths import Home
from engine.records.documents import mapping
from engine.runs.folder import RunFolder, run_folders

FILE = "labels.json"
_LONGEST = {"title": 120, "notes": 20_000}


@dataclass(frozen=True)
class Labels:
    """Labels of one run. An archived run is left out of lists, not deleted."""

    title: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""
    pinned: bool = False
    archived: bool = False
    baseline: bool = False


def read_labels(run: RunFolder) -> Labels:
    """The labels in the run's folder, or those of its recipe; a run whose recipe is lost can be labelled too."""
    path = run.path / FILE
    if not os.path.lexists(path):
        return _of_recipe(run)
    try:
        return _labels(mapping(path))
    except DraftbenchError as error:
        fix = "remove it: the run itself is not touched"
        raise DraftbenchError(f"{path} is damaged", f"{error.what} {error.why}".strip(), fix) from error


def _of_recipe(run: RunFolder) -> Labels:
    with contextlib.suppress(DraftbenchError):
        recipe = run.recipe()
        return Labels(tags=tuple(recipe.tags), notes=recipe.notes)
    return Labels()


def _labels(stored: Mapping[str, Any]) -> Labels:
    """What is usable of a labels file; the index reads it in the same way."""
    title, notes = (str(stored.get(key) or "") for key in ("title", "notes"))
    pinned, archived, baseline = (stored.get(key) is True for key in ("pinned", "archived", "baseline"))
    tags = stored.get("tags")
    kept = tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()
    return Labels(title, kept, notes, pinned, archived, baseline)


def change_labels(home: Home, run: RunFolder, **changes: Any) -> Labels:
    """Change some labels and return all; a new baseline takes the mark from the old one.

    Raises DraftbenchError for a label that does not exist or a text that is too long.
    """
    return edit_labels(home, run, lambda present: changes)


def change_seen_labels(home: Home, run: RunFolder, seen: Labels, wanted: Labels) -> Labels:
    """Save a form that was drawn with the labels `seen` and left with `wanted`: what was edited in it, nothing else.

    Raises `LabelConflict` where somebody else has changed what was edited; then nothing is saved.
    """
    edited = {key: value for key, value in vars(wanted).items() if value != getattr(seen, key)}

    def edit(present: Labels) -> Mapping[str, Any]:
        meanwhile = [key for key, value in edited.items() if getattr(present, key) not in (getattr(seen, key), value)]
        if meanwhile:
            raise LabelConflict(run, present, meanwhile)
        return edited

    return edit_labels(home, run, edit)


class LabelConflict(DraftbenchError):
    """The labels `keys` were changed by somebody else between the drawing of a form and its saving; `present` is stored."""

    def __init__(self, run: RunFolder, present: Labels, keys: list[str]) -> None:
        stored = "; ".join(f"{key}: {getattr(present, key) or 'nothing'}" for key in keys)
        super().__init__(
            f"the {' and the '.join(keys)} of run {run.id} changed while you were editing",
            f"stored now is {stored}",
            "your text is still in the form: save once more to replace what is stored",
        )
        self.present, self.keys = present, keys


def edit_labels(home: Home, run: RunFolder, edit: Callable[[Labels], Mapping[str, Any]]) -> Labels:
    """Apply the changes that `edit` makes of the present labels, with nobody else changing labels in between."""
    with disk_errors(home.runs), FileLock(home.runs / ".labels.lock"):  # two visitors may label at once
        present = _labels_or_aside(run)
        changes = _checked(edit(present))
        if changes.get("baseline"):
            for other in run_folders(home):
                if other.id != run.id:
                    _unmark(other)
        labels = replace(present, **changes)
        _write(run, labels)
    return labels


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    changes = dict(given)
    unknown = [key for key in changes if key not in asdict(Labels())]
    if unknown:
        raise DraftbenchError(f"no label {unknown[0]!r}", "", did_you_mean(unknown[0], asdict(Labels())))
    for key, longest in _LONGEST.items():
        if len(str(changes.get(key, ""))) > longest:
            raise DraftbenchError(
                f"the {key} has {len(changes[key]):,} characters", f"at most {longest:,} are kept", "shorten it"
            )
    if "tags" in changes:
        changes["tags"] = tuple(dict.fromkeys(tag.strip() for tag in changes["tags"] if tag.strip()))
    return changes


def _labels_or_aside(run: RunFolder) -> Labels:
    """The labels to change. Damaged ones would keep the run from ever being archived: they are kept under another name."""
    try:
        return read_labels(run)
    except DraftbenchError:
        path = run.path / FILE
        with disk_errors(path):
            os.replace(path, path.with_name(f"{FILE}.damaged"))
        return _of_recipe(run)


def _unmark(run: RunFolder) -> None:
    """Take the baseline's mark from the run; damaged labels hold none."""
    with contextlib.suppress(DraftbenchError, OSError):
        labels = read_labels(run)
        if labels.baseline:
            _write(run, replace(labels, baseline=False))


def _write(run: RunFolder, labels: Labels) -> None:
    write_json(run.path / FILE, asdict(labels))
