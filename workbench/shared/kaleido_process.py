"""Render figures with Chrome and Kaleido in a process of their own, which can be killed when it hangs.

    python -m workbench.shared.kaleido_process < jobs.json > drawn.json

Reads a JSON list of {"figure": ..., "kind": "svg" | "png" | "pdf", "scale": ...} and writes a JSON list of base64
texts. Internal: `workbench.shared.downloads.figures_bytes` starts it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any

_WHOLE_PAGE = "<style>@page { margin: 0 } img { display: block }</style>"


async def _draw(jobs: list[dict[str, Any]]) -> list[str]:
    from kaleido import Kaleido, PageGenerator

    page = PageGenerator(mathjax=False)  # its default would be fetched from the network
    # A PDF page has the figure's size. Kaleido's print margins would push its bottom and right edge off the page.
    page.header += _WHOLE_PAGE
    drawn = []
    async with Kaleido(n=1, timeout=60, page_generator=page) as chrome:
        for job in jobs:
            layout = job["figure"].get("layout", {})
            options = {
                "format": job["kind"],
                "width": layout.get("width", 900),
                "height": layout.get("height", 400),
                "scale": job["scale"],
            }
            content = await chrome.calc_fig(job["figure"], opts=options)
            drawn.append(base64.b64encode(content).decode("ascii"))
    return drawn


if __name__ == "__main__":
    json.dump(asyncio.run(_draw(json.load(sys.stdin))), sys.stdout)
