"""Starting the workbench: what is said about who can reach it, and that no fault of the home stops it."""

from pathlib import Path

import pytest

from engine.errors import DraftbenchError
from engine.paths import home
from workbench.server import startup
from workbench.shared.pages import PAGES, link


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1"])
def test_a_server_for_this_machine_alone_needs_no_warning(address: str):
    assert startup.warning(address) is None


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.4", "::", None, ""])
def test_a_server_that_others_reach_is_warned_about(address: str | None):
    warning = startup.warning(address)
    assert warning is not None
    assert "start processes" in warning
    assert "127.0.0.1" in warning


@pytest.mark.parametrize(("address", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_the_warning_is_said_when_the_server_starts(
    address: str, warned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DRAFTBENCH_SAMPLES", "0")
    monkeypatch.setattr(startup, "_load", lambda: None)
    startup.prepare(address)
    assert ("start processes" in caplog.text) is warned


def test_preparing_makes_an_index_even_if_one_step_fails(monkeypatch: pytest.MonkeyPatch, caplog):
    def broken(_: object) -> list[str]:
        raise DraftbenchError("the disk is full", "", "")

    monkeypatch.setattr(startup, "lay_out_samples", broken)
    monkeypatch.setattr(startup, "_load", lambda: None)
    home().runs.mkdir(parents=True)
    startup.prepare("127.0.0.1")
    assert "the disk is full" in caplog.text


def test_a_link_restores_lists_and_text_that_needs_quoting():
    assert link("compare", runs=["a", "b"], t=0.5, none=None) == "/compare?runs=a&runs=b&t=0.5"
    assert link("runs", search="<b>&x") == "/runs?search=%3Cb%3E%26x"
    assert link("home") == "/"


def test_every_page_has_its_file_and_a_purpose_of_one_sentence():
    from engine.paths import PROJECT_ROOT

    for name, entry in PAGES.items():
        assert Path(PROJECT_ROOT / "pages" / f"{name}.py").is_file()
        assert entry.purpose.endswith(".")
        assert entry.purpose.count(". ") == 0
