"""What people say about a run: a title, tags, a note, pinned, archived, the baseline.

Kept beside the run's own files in `labels.json`, because a recipe says what a run was made
from and must never change. A run without that file is labelled by its recipe.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from filelock import FileLock

from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import disk_errors
from engine.paths import Home
from engine.records.labels import Labels
from engine.records.record import NewerDocumentError
from engine.runs.folder import RunFolder, run_folders

_LONGEST = {"title": 120, "notes": 20_000}


def read_labels(run: RunFolder) -> Labels:
    """The labels in the run's folder, or those of its recipe; a run whose recipe is lost can be labelled too."""
    path = run.path / Labels.FILE
    try:
        return Labels.read(run.path) or _of_recipe(run)
    except NewerDocumentError:
        raise
    except DraftbenchError as error:
        fix = "remove it: the run itself is not touched"
        raise DraftbenchError(f"{path} is damaged", f"{error.what} {error.why}".strip(), fix) from error


def _of_recipe(run: RunFolder) -> Labels:
    with contextlib.suppress(DraftbenchError):
        recipe = run.recipe()
        return Labels(tags=tuple(recipe.tags), notes=recipe.notes)
    return Labels()


def change_labels(home: Home, run: RunFolder, **changes: Any) -> Labels:
    """Change some labels and return all; a new baseline takes the mark from the old one.

    Raises DraftbenchError for a label that does not exist or a text that is too long.
    """
    return edit_labels(home, run, lambda present: changes)


def make_baseline(home: Home, run: RunFolder, seen_baseline: str) -> Labels:
    """Mark the run as the baseline. `seen_baseline`: the id of the one that the visitor saw; "" if none was marked.

    Raises `BaselineConflict` if another run has become the baseline since; then nothing is changed.
    """

    def edit(_: Labels) -> Mapping[str, Any]:
        _require_baseline(home, run, seen_baseline)
        return {"baseline": True}

    return edit_labels(home, run, edit)


def change_seen_labels(home: Home, run: RunFolder, seen: Labels, wanted: Labels, *, seen_baseline: str = "") -> Labels:
    """Save a form that was drawn with the labels `seen` and left with `wanted`: what was edited in it, nothing else.

    Raises `LabelConflict` where somebody else has changed what was edited, and `BaselineConflict` as `make_baseline`
    does; then nothing is saved.
    """
    edited = {key: getattr(wanted, key) for key in Labels.model_fields if getattr(wanted, key) != getattr(seen, key)}

    def edit(present: Labels) -> Mapping[str, Any]:
        meanwhile = [key for key, value in edited.items() if getattr(present, key) not in (getattr(seen, key), value)]
        if meanwhile:
            raise LabelConflict(run, present, meanwhile)
        if edited.get("baseline"):
            _require_baseline(home, run, seen_baseline)
        return edited

    return edit_labels(home, run, edit)


class LabelConflict(DraftbenchError):
    """Somebody else changed the labels `keys` while a form was edited; `present` is stored."""

    def __init__(self, run: RunFolder, present: Labels, keys: list[str]) -> None:
        stored = "; ".join(f"{key}: {getattr(present, key) or 'nothing'}" for key in keys)
        super().__init__(
            f"the {' and the '.join(keys)} of run {run.id} changed while you were editing",
            f"stored now is {stored}",
            "your text is still in the form: save once more to replace what is stored",
        )
        self.present, self.keys = present, keys


class BaselineConflict(DraftbenchError):
    """Somebody else made the run `present` the baseline while a page showed another, or none."""

    def __init__(self, present: str) -> None:
        super().__init__(
            f"the baseline changed while this page was open: it is {present} now",
            "only one run is the baseline, so somebody else's choice would be lost",
            "nothing was saved: press the button once more to replace it",
        )
        self.present = present


def _require_baseline(home: Home, run: RunFolder, seen: str) -> None:
    """Refuse to take the mark from a run that the visitor has not seen it on."""
    for other in run_folders(home):
        if other.id not in (run.id, seen) and _is_baseline(other):
            raise BaselineConflict(other.id)


def edit_labels(home: Home, run: RunFolder, edit: Callable[[Labels], Mapping[str, Any]]) -> Labels:
    """Apply the changes that `edit` makes of the present labels, with nobody else changing labels in between."""
    with disk_errors(home.runs), FileLock(home.runs / ".labels.lock"):  # two visitors may label at once
        present = _labels_or_aside(run)
        changes = _checked(edit(present))
        if changes.get("baseline"):
            for other in run_folders(home):
                if other.id != run.id:
                    _unmark(other)
        labels = present.model_copy(update=changes)
        labels.write(run.path)
    return labels


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    changes = dict(given)
    unknown = [key for key in changes if key not in Labels.model_fields]
    if unknown:
        raise DraftbenchError(f"no label {unknown[0]!r}", "", did_you_mean(unknown[0], Labels.model_fields))
    for key, longest in _LONGEST.items():
        if len(str(changes.get(key, ""))) > longest:
            raise DraftbenchError(
                f"the {key} has {len(changes[key]):,} characters", f"at most {longest:,} are kept", "shorten it"
            )
    if "tags" in changes:
        changes["tags"] = tuple(dict.fromkeys(tag.strip() for tag in changes["tags"] if tag.strip()))
    return changes


def _labels_or_aside(run: RunFolder) -> Labels:
    """The labels to change. Damaged ones are moved aside, or they would keep the run from ever being archived.

    Raises NewerDocumentError for those of a later version, which are not damaged.
    """
    try:
        return read_labels(run)
    except NewerDocumentError:
        raise
    except DraftbenchError:
        path = run.path / Labels.FILE
        with disk_errors(path):
            os.replace(path, path.with_name(f"{path.name}.damaged"))
        return _of_recipe(run)


def _is_baseline(run: RunFolder) -> bool:
    """Whether the run has the mark; damaged labels hold none."""
    with contextlib.suppress(DraftbenchError, OSError):
        return (run.path / Labels.FILE).is_file() and read_labels(run).baseline
    return False


def _unmark(run: RunFolder) -> None:
    """Take the baseline's mark from the run."""
    if _is_baseline(run):
        with contextlib.suppress(DraftbenchError, OSError):
            read_labels(run).model_copy(update={"baseline": False}).write(run.path)
