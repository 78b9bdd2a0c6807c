"""Every page in a real browser, opened by its link: with an empty store and with the samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser import harness
from workbench.shared.pages import PAGES, link


@pytest.mark.parametrize("samples", [False, True], ids=["empty", "samples"])
def test_every_page_opens_by_its_link_without_an_error(samples: bool, home: Path, real_cache: Path, tmp_path: Path):
    server = harness.start(home, tmp_path / "server.log", samples=samples)
    try:
        with harness.browser() as visitor:
            for name, entry in PAGES.items():
                page = visitor.page()
                page.goto(server.url + link(name))
                harness.settle(page)
                expect(page.get_by_role("heading", name=entry.title, exact=True)).to_be_visible()
                expect(page.get_by_text(entry.purpose)).to_be_visible()
                assert "This is a bug in Draftbench" not in page.content(), name
                page.close()
            assert visitor.errors == []
            assert visitor.elsewhere == []
    finally:
        server.stop()
