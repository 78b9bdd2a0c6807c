"""Saved views of the Runs page: condition, columns, order, group and filters under a name, for all visitors of a home.

They are kept in `views.json` in the home. Whoever changes one says what it was when they looked: two tabs never
overwrite each other without a word. Nothing here knows Streamlit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar

from filelock import FileLock
from pydantic import Field

from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import disk_errors
from engine.paths import Home
from engine.records.record import Part, Record, Text

Params = dict[str, tuple[str, ...]]
"""What the address of the Runs page says of a view: parameter -> values. Defaults are left out."""
_LONGEST, _MOST = 80, 200


class View(Part):
    """One saved view."""

    name: Text = ""
    params: dict[str, Annotated[tuple[Text, ...], Field(strict=False)]] = Field(default_factory=dict)


class SavedViews(Record):
    """All views of a home."""

    FILE: ClassVar[str] = "views.json"
    FIX: ClassVar[str] = "restore it, or remove it to begin without saved views"

    views: Annotated[tuple[View, ...], Field(strict=False)] = ()


class ViewConflictError(DraftbenchError):
    """Somebody else changed the view meanwhile; `present` is what is stored, None if it is gone."""

    def __init__(self, name: str, present: Params | None) -> None:
        became = "is gone" if present is None else f"is now {described(present)}"
        super().__init__(
            f"the view {name!r} changed while you had it open",
            f"it {became}",
            "do it once more to replace what is stored",
        )
        self.present = present


def saved_views(home: Home) -> dict[str, Params]:
    """The views by name, in alphabetical order. Raises DraftbenchError if the file is damaged."""
    record = SavedViews.read(home.root) or SavedViews()
    return {view.name: dict(view.params) for view in sorted(record.views, key=lambda view: view.name.casefold())}


def save_view(home: Home, name: str, params: Params, seen: Params | None) -> str:
    """Save the parameters under a name, in the place of the view `seen`; None for a new one. Returns the name."""
    name = _checked(name)

    def edit(views: dict[str, Params]) -> None:
        if views.get(name) not in (seen, params):
            raise ViewConflictError(name, views.get(name))
        views[name] = params

    _change(home, edit)
    return name


def rename_view(home: Home, name: str, wanted: str, seen: Params) -> str:
    """Give the view `seen` another name, which no other view has. Returns it."""
    wanted = _checked(wanted)

    def edit(views: dict[str, Params]) -> None:
        _is_as_seen(views, name, seen)
        if wanted in views and wanted != name:
            raise DraftbenchError(f"there is a view {wanted!r} already", "it would be replaced", "use another name")
        views[wanted] = views.pop(name)

    _change(home, edit)
    return wanted


def delete_view(home: Home, name: str, seen: Params) -> None:
    """Delete the view `seen`; the runs are not touched."""

    def edit(views: dict[str, Params]) -> None:
        _is_as_seen(views, name, seen)
        del views[name]

    _change(home, edit)


def described(params: Mapping[str, tuple[str, ...]]) -> str:
    """'where: exact > .3; group: domain': the parameters in one line."""
    return "; ".join(f"{key}: {', '.join(values)}" for key, values in params.items()) or "all runs"


def _change(home: Home, edit: Callable[[dict[str, Params]], None]) -> None:
    with disk_errors(home.root):
        home.root.mkdir(parents=True, exist_ok=True)
        with FileLock(home.root / ".views.lock"):
            _refuse_partial(home)
            views = saved_views(home)
            edit(views)
            if len(views) > _MOST:
                raise DraftbenchError(f"there are {_MOST} views already", "no more are kept", "delete one first")
            kept = tuple(View(name=name, params=params) for name, params in views.items())
            SavedViews(views=kept).write(home.root)


def _refuse_partial(home: Home) -> None:
    """Raise DraftbenchError if some of the file makes no sense: writing it again would lose that."""
    _, left_out = SavedViews.load(home.root)
    if left_out:
        raise DraftbenchError(f"{home.root / SavedViews.FILE} is damaged", left_out[0], SavedViews.FIX)


def _is_as_seen(views: Mapping[str, Params], name: str, seen: Params) -> None:
    if name not in views:
        raise DraftbenchError(f"there is no view {name!r}", "somebody deleted it", did_you_mean(name, views))
    if views[name] != seen:
        raise ViewConflictError(name, views[name])


def _checked(name: str) -> str:
    name = " ".join(name.split())
    if not name:
        raise DraftbenchError("the view has no name", "it is chosen by its name", "type one")
    if len(name) > _LONGEST:
        raise DraftbenchError(f"the name has {len(name)} characters", f"at most {_LONGEST} are kept", "shorten it")
    return name
