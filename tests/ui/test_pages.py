"""Every page draws: with nothing in the store, and with a finished run."""

from pathlib import Path

import pytest

from tests.ui.conftest import OpenPage
from workbench.shared.pages import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_with_an_empty_store(name: str, page: OpenPage):
    shown = page(name)
    assert shown.title[0].value == PAGES[name].title


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_with_a_finished_run(name: str, page: OpenPage, finished_home: Path):
    assert page(name).title[0].value == PAGES[name].title
