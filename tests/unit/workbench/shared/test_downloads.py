"""Charts and tables as files."""

import io
import subprocess
import time

import pandas as pd
import plotly.graph_objects as go
import pytest

from engine.errors import DraftbenchError
from workbench.shared import downloads, theme

TABLE = pd.DataFrame(
    {"draft": ["A & <b>_1%", "B"], "exact": [0.12345, float("nan")], "interval": ["0.1 [0.0, 0.2]", None]}
)


def test_csv_reads_back_the_same():
    back = pd.read_csv(io.BytesIO(downloads.csv(TABLE)))
    pd.testing.assert_frame_equal(back, TABLE, check_dtype=False)


def test_csv_holds_no_formula_for_a_spreadsheet():
    text = downloads.csv(
        pd.DataFrame({"title": ["=HYPERLINK(1)", "@x", "-1", "fine"], "delta": [-0.5, 0.5, 1, 1]})
    ).decode()
    assert "'=HYPERLINK(1)" in text
    assert "'@x" in text
    assert "\nfine" in text
    assert ",-0.5" in text  # a number stays a number


def test_latex_is_a_booktabs_table_with_everything_escaped():
    text = downloads.latex(TABLE, "100% of $x_1$")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{@{}lrl@{}}"):
        assert rule in text
    assert r"\caption{100\% of \$x\_1\$}" in text
    assert r"A \& \textless{}b\textgreater{}\_1\% & 0.123 & 0.1 [0.0,~0.2] \\" in text
    assert r"B & -- & --" in text


def test_latex_cannot_call_a_command():
    text = downloads.latex(pd.DataFrame({"a": [r"\input{/etc/passwd}"]}), "")
    assert r"\input" not in text


def test_without_a_chrome_one_clear_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloads, "chrome", lambda: None)
    with pytest.raises(DraftbenchError, match="Chrome or Chromium is missing") as refused:
        downloads.figure_bytes(go.Figure(), "svg")
    assert "BROWSER_PATH" in refused.value.fix


def test_an_unknown_kind_is_refused():
    with pytest.raises(DraftbenchError, match="'gif'"):
        downloads.figure_bytes(go.Figure(), "gif")


def test_what_was_drawn_for_a_dark_page_is_dark_on_paper():
    drawn = go.Figure().add_scatter(x=[1], y=[2], line_color=theme.TONES["dark"].text)
    assert downloads.printable(drawn).data[0].line.color == theme.TONES["light"].text


def test_chrome_is_the_one_named(monkeypatch: pytest.MonkeyPatch, tmp_path):
    browser = tmp_path / "my-chrome"
    browser.touch()
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    assert downloads.chrome() == str(browser)
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "gone"))
    assert downloads.chrome() is None


def test_a_chrome_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloads, "chrome", lambda: "/bin/cat")
    started, real = [], subprocess.Popen

    def sleeper(_: list[str], **options):
        started.append(real(["sleep", "60"], **options))
        return started[0]

    monkeypatch.setattr(downloads.subprocess, "Popen", sleeper)
    began = time.monotonic()
    with pytest.raises(DraftbenchError, match="could not render") as refused:
        downloads.figure_bytes(go.Figure(), "png", timeout_s=0.2)
    assert "0.2 s" in refused.value.why
    assert time.monotonic() - began < 10
    assert started[0].poll() is not None


def test_a_file_is_on_white_whatever_the_page_looks_like():
    dark = go.Figure(layout={"template": theme.template("dark")})
    paper = downloads.printable(dark)
    assert paper.layout.paper_bgcolor == "#ffffff"
    assert paper.layout.template.layout.font.color == theme.TONES["light"].text
    assert dark.layout.paper_bgcolor is None  # the page's own figure is left as it was


@pytest.mark.slow
@pytest.mark.skipif(downloads.chrome() is None, reason="no Chrome or Chromium here")
@pytest.mark.parametrize(("kind", "begins"), [("svg", b"<svg"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_chrome_draws(kind: str, begins: bytes):
    assert downloads.figure_bytes(go.Figure(go.Bar(y=[1, 2])), kind).startswith(begins)
