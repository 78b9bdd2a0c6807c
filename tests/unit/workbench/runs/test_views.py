"""Saved views: kept for all visitors, never overwritten without a word, never lost by a damaged file."""

from __future__ import annotations

import pytest

from engine.errors import DraftbenchError
from engine.paths import home
from workbench.runs.views import ViewConflictError, delete_view, rename_view, save_view, saved_views

BEST = {"where": ("exact > .4",), "columns": ("tau_0", "train.seed")}


def test_a_view_is_kept_under_its_name():
    assert saved_views(home()) == {}
    assert save_view(home(), "  best   ones ", BEST, None) == "best ones"
    assert saved_views(home()) == {"best ones": BEST}


def test_of_two_tabs_the_second_is_told_and_may_insist():
    save_view(home(), "mine", BEST, None)
    save_view(home(), "mine", {"q": ("first",)}, BEST)
    with pytest.raises(ViewConflictError, match="is now q: first") as conflict:
        save_view(home(), "mine", {"q": ("second",)}, BEST)
    assert saved_views(home())["mine"] == {"q": ("first",)}
    save_view(home(), "mine", {"q": ("second",)}, conflict.value.present)
    assert saved_views(home())["mine"] == {"q": ("second",)}
    with pytest.raises(ViewConflictError):
        delete_view(home(), "mine", BEST)
    with pytest.raises(ViewConflictError):
        save_view(home(), "mine", BEST, None)  # a new one of the same name


def test_a_name_is_taken_once():
    save_view(home(), "a", BEST, None)
    save_view(home(), "b", {}, None)
    with pytest.raises(DraftbenchError, match="already"):
        rename_view(home(), "a", "b", BEST)
    assert rename_view(home(), "a", "c", BEST) == "c"
    assert list(saved_views(home())) == ["b", "c"]
    for name in (" ", "x" * 81):
        with pytest.raises(DraftbenchError, match="name"):
            save_view(home(), name, BEST, None)


def test_a_file_that_makes_no_sense_in_part_is_not_written_again():
    save_view(home(), "a", BEST, None)
    path = home().root / "views.json"
    text = path.read_text().replace('"exact > .4"', "7")
    path.write_text(text)
    with pytest.raises(DraftbenchError, match="damaged"):
        save_view(home(), "b", BEST, None)
    assert path.read_text() == text
