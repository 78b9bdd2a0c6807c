"""Every page draws: with nothing in the store, and with a finished run."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.ui.conftest import ROUTER, OpenPage
from workbench.server.guard import Guard
from workbench.shared.pages import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_with_an_empty_store(name: str, page: OpenPage):
    shown = page(name)
    assert shown.title[0].value == PAGES[name].title


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_with_a_finished_run(name: str, page: OpenPage, finished_home: Path):
    assert page(name).title[0].value == PAGES[name].title


@pytest.mark.parametrize("installed", [True, False])
def test_the_router_draws_nothing_without_the_guard(installed: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Guard, "installed", installed)
    shown = AppTest.from_file(str(ROUTER), default_timeout=300).run()
    assert not shown.exception
    assert [title.value for title in shown.title] == (["Home"] if installed else [])
    assert any("without its guard" in error.value for error in shown.error) is not installed
