"""Pages under Streamlit's AppTest: a home with one finished run on the tiny pair, pages as the router opens them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from engine.index.kept_reader import share_readers
from engine.paths import PROJECT_ROOT
from tests.unit.conftest import finished, finished_home, one_thread, recipe  # noqa: F401

OpenPage = Callable[..., AppTest]
ROUTER = PROJECT_ROOT / "workbench" / "router.py"


@pytest.fixture(autouse=True)
def main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppTest puts the page's script in the place of `__main__`, which processes started by later tests would run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture(scope="session", autouse=True)
def installed_components() -> Iterator[None]:
    """Streamlit reads the metadata of all installed packages for every page under test: here it does so once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_readers() -> Iterator[None]:
    """As in the application."""
    share_readers(0.3)
    yield
    share_readers(0)


@pytest.fixture(autouse=True)
def fresh_caches() -> None:
    """What one test's home held is not shown in the next one's."""
    st.cache_data.clear()
    st.cache_resource.clear()


@pytest.fixture
def page() -> OpenPage:
    """Run a page whole, with the parameters of its URL; fails if the script raised."""

    def open_page(name: str, *, check: bool = True, **params: Any) -> AppTest:
        test = AppTest.from_file(str(PROJECT_ROOT / "tests" / "ui" / "one_page.py"), default_timeout=300)
        for key, value in {"_page": name, **params}.items():
            test.query_params[key] = value
        test.run()
        if check:
            assert not test.exception, test.exception[0].message
        return test

    return open_page
