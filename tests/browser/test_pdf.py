"""A figure saved as a PDF is whole: nothing of it lies off the page, in whatever width it is saved."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from tests.unit.workbench.shared import test_charts
from workbench.findings import figures as findings_figures
from workbench.shared import chart_parts, downloads, printing, theme


@pytest.mark.parametrize("height", [250, 700])
def test_the_page_of_a_pdf_holds_the_whole_figure(tmp_path: Path, height: int) -> None:
    if shutil.which("pdftoppm") is None and not os.environ.get("DRAFTBENCH_NEEDS_BROWSER"):
        pytest.skip("pdftoppm (Debian: poppler-utils) draws the page that is looked at")
    figure = go.Figure(layout={"template": theme.template("light"), "height": height})
    figure.add_shape(type="rect", xref="paper", yref="paper", x0=0, x1=1, y0=0, y1=1, fillcolor="black")
    figure.add_bar(x=["a"], y=[1])
    (tmp_path / "figure.pdf").write_bytes(downloads.figure_bytes(figure, "pdf"))
    subprocess.run(["pdftoppm", "-r", "96", "-png", "-singlefile", "figure.pdf", "page"], cwd=tmp_path, check=True)
    page = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    layout = printing.printable(figure).layout
    assert page.shape == pytest.approx((layout.height, layout.width), abs=2)
    dark = page < 100
    rows, columns = np.flatnonzero(dark.mean(axis=1) > 0.8), np.flatnonzero(dark.mean(axis=0) > 0.4)
    assert rows[0] == pytest.approx(layout.margin.t, abs=4)
    # so the pixels below the plot, with its axis, and those beside it are on the page too
    assert rows[-1] == pytest.approx(layout.height - layout.margin.b, abs=4)
    assert columns[-1] == pytest.approx(layout.width - layout.margin.r, abs=4)


_LONG = "forward_kl on the users' own queries, offline, with a vocabulary of 8,192 ids & three passes"


def _figures() -> dict[str, go.Figure]:
    """Figures of every kind with names as long as people's, and with text that looks like markup."""
    rows = [
        {
            "domain": domain,
            "scenario": scenario,
            "n_train": size,
            "loss": method,
            "method": f"online {method}, equal tokens",
            "temperature": 0.0,
            "value": 0.3 + 0.1 * place,
            "low": 0.25,
            "high": 0.45 + 0.1 * place,
            "n_prompts": 60,
            "seeds": 3,
            "initial": 0.2,
            "target": "smollm2-135m-instruct + function_calling",
        }
        for domain in ("biology", "chinese", "function_calling")
        for place, scenario in enumerate(("historical", "synthetic"))
        for size in (50, 200)
        for method in ("forward_kl", "reverse_kl", "tvd")
    ]
    frame = pd.DataFrame(rows)
    drawn = {name: draw("light") for name, draw in test_charts.FIGURES.items()}
    drawn["by_method"] = findings_figures.by_method(frame[frame.n_train == 50], 0.0, "light")
    drawn["by_size"] = findings_figures.by_size(frame, "historical", 0.0, "light")
    long = chart_parts.titled(f"Exact acceptance of {_LONG}", f"n = 60 prompts, {_LONG}", "light")
    for number in range(3):
        long.add_scatter(x=[0, 1], y=[_LONG, f"{number} {_LONG}"], name=f"{_LONG} {number}")
    drawn["long"] = long.update_xaxes(title=_LONG).update_yaxes(type="category", title=_LONG)
    return drawn


@pytest.mark.parametrize("size", printing.SIZES)
def test_all_text_of_every_figure_lies_on_its_page(tmp_path: Path, size: str) -> None:
    if shutil.which("pdftotext") is None and not os.environ.get("DRAFTBENCH_NEEDS_BROWSER"):
        pytest.skip("pdftotext (Debian: poppler-utils) says where the words are")
    figures = _figures()
    for name, pdf in zip(
        figures, downloads.figures_bytes(list(figures.values()), "pdf", size, timeout_s=240), strict=True
    ):
        (tmp_path / f"{name}.pdf").write_bytes(pdf)
        width, words = _words(tmp_path / f"{name}.pdf")
        assert width == pytest.approx(printing.SIZES[size].width_in * 72, abs=1), name
        title = html.unescape(figures[name].layout.title.text.replace("<br>", " "))
        assert "".join(title.split()) in "".join(word for word, _ in words), (name, "its title is not whole")
        outside = [word for word, within in words if not within]
        assert not outside, (name, outside)


def _words(pdf: Path) -> tuple[float, list[tuple[str, bool]]]:
    """Width of the only page in points, and each word with whether it lies on the page as a whole."""
    subprocess.run(["pdftotext", "-bbox", pdf.name, "words.html"], cwd=pdf.parent, check=True)
    text = (pdf.parent / "words.html").read_text(encoding="utf-8")
    (page,) = re.findall(r'<page width="([\d.]+)" height="([\d.]+)"', text)
    width, height = map(float, page)
    found = re.findall(r'<word xMin="(.*?)" yMin="(.*?)" xMax="(.*?)" yMax="(.*?)">(.*?)</word>', text)
    words = []
    for *corners, word in found:
        left, top, right, bottom = map(float, corners)
        # a letter's box is a little higher than the letter
        within = left >= -1 and right <= width + 1 and top >= -2 and bottom <= height + 2
        words.append((html.unescape(word), within))
    return width, words
