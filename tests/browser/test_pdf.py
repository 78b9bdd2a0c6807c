"""A figure saved as a PDF is whole: Chrome's print margins once pushed its bottom and right edge off the page."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from workbench.shared import downloads, theme


@pytest.mark.parametrize("height", [250, 700])
def test_the_page_of_a_pdf_holds_the_whole_figure(tmp_path: Path, height: int) -> None:
    if shutil.which("pdftoppm") is None and not os.environ.get("DRAFTBENCH_NEEDS_BROWSER"):
        pytest.skip("pdftoppm (Debian: poppler-utils) draws the page that is looked at")
    figure = go.Figure(
        layout={"template": theme.template("light"), "height": height, "margin": {"t": 0, "r": 0, "b": 60}}
    )
    figure.add_shape(type="rect", xref="paper", yref="paper", x0=0, x1=1, y0=0, y1=1, fillcolor="black")
    figure.add_bar(x=["a"], y=[1])
    (tmp_path / "figure.pdf").write_bytes(downloads.figure_bytes(figure, "pdf"))
    subprocess.run(["pdftoppm", "-r", "96", "-png", "-singlefile", "figure.pdf", "page"], cwd=tmp_path, check=True)
    page = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    assert page.shape[0] == pytest.approx(height, abs=2)
    dark = page < 100
    assert dark[4].mean() > 0.8  # the plot begins at the top edge of the page
    assert dark[:, -5].mean() > 0.6  # and reaches its right edge
    drawn = np.flatnonzero(dark.mean(axis=1) > 0.8)
    assert drawn[-1] == pytest.approx(
        height - 60, abs=4
    )  # so the 60 pixels below it, with the axis, are on the page too
