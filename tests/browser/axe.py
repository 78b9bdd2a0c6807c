"""axe-core, the accessibility checker, in a page of the browser: fetched as a wheel, pinned by hash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from engine import packages
from engine.errors import DraftbenchError

_REQUIREMENT = "axe-playwright-python==0.1.8"  # carries axe-core 4.12.1
_SHA256 = "fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8"
_WHEEL = "axe_playwright_python-0.1.8-py3-none-any.whl"
_MEMBER = "axe_playwright_python/axe.min.js"
GRAVE = ("serious", "critical")
# A colour halfway to another one, or an element that fades while its page runs again, has a contrast for an instant.
_AT_REST = "*{transition:none!important;animation:none!important}[data-stale=true]{opacity:1!important}"


def script(cache: Path) -> str:
    """axe-core's source. Without network the test is skipped, or fails where a browser is required."""
    folder = cache / "tests"
    wheel = folder / _WHEEL
    try:
        if not wheel.is_file():
            packages.download(_REQUIREMENT, _SHA256, folder, again="make test")
        packages.refuse_wrong_hash(wheel, _SHA256)
    except DraftbenchError as error:
        if os.environ.get("DRAFTBENCH_NEEDS_BROWSER"):
            raise
        pytest.skip(f"axe-core is not there: {error}")
    return packages.read_member(wheel, _MEMBER).decode()


def grave(page: Page, source: str) -> list[str]:
    """The page's serious and critical violations, those of its frames included: rule, element and what is wrong."""
    for frame in page.frames:
        frame.add_style_tag(content=_AT_REST)
        frame.evaluate(source)
    result: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    lines = []
    for rule in result["violations"]:
        for node in rule["nodes"] if rule["impact"] in GRAVE else ():
            why = [check["message"] for kind in ("any", "all", "none") for check in node[kind]]
            lines.append(f"{rule['id']} {node['target']} {node['html'][:200]}: {'; '.join(why)[:200]}")
    return lines
