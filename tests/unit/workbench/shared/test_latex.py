"""Tables for a paper fit its page: TeX itself says so, where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from workbench.shared.latex import latex

NARROW = pd.DataFrame({"draft": ["A & <b>_1%", "B"], "exact": [0.12345, float("nan")], "n": [60, 1200]})
MANY_ROWS = pd.DataFrame(
    {
        "run": [f"first-biology_historical_forward-kl-{i}-equal-tokens-20261122-170335-b79d" for i in range(60)],
        "exact": [i / 61 for i in range(60)],
        "interval": [f"{i / 61:.3f} [0.100, 0.145]" for i in range(60)],
        "why": [f"{i} of 4 comparisons could be decided (2 same direction, 1 not reproduced)" for i in range(60)],
    }
)
MANY_COLUMNS = pd.DataFrame({f"column {i}": [f"some words here {j} {i}" for j in range(4)] for i in range(16)})
STRANGE = pd.DataFrame({"x": ["a^b~c{d}#$%&\\", "Δ ≥ 3 ± 1 × 2 ≈ – … · −"], "y": [1, 2]})
TABLES = {"narrow": NARROW, "rows": MANY_ROWS, "columns": MANY_COLUMNS, "strange": STRANGE, "empty": NARROW.iloc[:0]}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex (Debian: texlive-latex-recommended) is missing")
@pytest.mark.parametrize("name", TABLES)
def test_a_table_compiles_and_fits_a_two_column_page(tmp_path: Path, name: str):
    text = latex(TABLES[name], "A caption of 100% of $x_1$")
    (tmp_path / "paper.tex").write_text(
        r"\documentclass[twocolumn]{article}\usepackage[T1]{fontenc}\usepackage[margin=17.5mm]{geometry}"
        rf"\usepackage{{booktabs,array}}\begin{{document}}{text}\clearpage\end{{document}}",
        encoding="utf-8",
    )
    line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.findall(r"Overfull \\hbox.*|.*Float too large.*|Missing character.*", done.stdout) == []


def test_a_narrow_table_stands_in_one_column_and_a_wide_one_spans_both():
    assert r"\begin{table}" in latex(NARROW, "")
    assert r"\begin{table*}" in latex(MANY_ROWS, "")


def test_what_is_the_same_in_every_row_is_said_once():
    frame = NARROW.assign(domain="biology", T=[0, 0])
    text = latex(frame, "Acceptance")
    assert r"\caption{Acceptance. All rows: domain biology, T 0}" in text
    assert "draft & exact & n" in text


def test_nothing_of_a_table_is_lost_in_its_parts():
    rows, columns = latex(MANY_ROWS, ""), latex(MANY_COLUMNS, "")
    assert sum(line.strip().startswith("first") for line in rows.splitlines()) == 60
    assert all(f"column {i}" in columns for i in range(16))
    assert columns.count("column 0") == columns.count(r"\begin{table*}") > 1  # the first column in each part
