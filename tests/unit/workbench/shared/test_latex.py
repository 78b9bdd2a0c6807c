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
OF_A_FIGURE = pd.DataFrame(
    {
        "run_id": ["first-a", "first-b"],
        "label": ["A · forward_kl", "B · tvd"],
        "metric": ["exact", "exact"],
        "value": [0.557, -0.024],
        "n_prompts": [60.0, 60.0],
        "n_tokens": [1234.0, float("nan")],
        "before": [1.0, 0.0],
        "delta": [float("nan"), float("nan")],
        "reason": ["", ""],
    }
)
NUMBERS = pd.DataFrame(
    {
        "run": [f"first-biology_forward-kl-{i}-equal-tokens-20261122-170335-b79d" for i in range(3)],
        **{f"rate {i}": ["0.557 [-0.099, 0.433]", "-0.017 [-0.020, -0.009]", "1e-05"] for i in range(4)},
        "why": ["fewer than 6 prompts, so that there is no interval"] * 3,
    }
)
TABLES = {
    "figure": OF_A_FIGURE,
    "numbers": NUMBERS,
    "narrow": NARROW,
    "rows": MANY_ROWS,
    "columns": MANY_COLUMNS,
    "strange": STRANGE,
    "empty": NARROW.iloc[:0],
}


@pytest.mark.slow
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


def test_a_figures_table_has_plain_headings_whole_counts_and_nothing_empty():
    text = latex(OF_A_FIGURE, "Exact acceptance")
    assert r"\caption{Exact acceptance. All rows: rate exact, n 60}" in text
    assert "draft & value & tokens & before training" in text
    assert r"A $\cdot$ forward\_kl & 0.557 & 1234 & 1.000" in text
    assert r"B $\cdot$ tvd & $-$0.024 & -- & 0.000" in text
    assert not any(word in text for word in ("first-a", "reason", "run\\_id", "60.0"))


def test_a_run_that_has_no_other_name_keeps_its_id():
    assert "run id & exact" in latex(pd.DataFrame({"run_id": ["a", "b"], "exact": [0.1, 0.2]}), "")


def test_no_line_ends_inside_a_number_or_an_interval_and_minus_is_a_minus():
    text = latex(NUMBERS, "")
    assert "0.557 [$-$0.099,~0.433]" in text
    assert "$-$0.017 [$-$0.020,~$-$0.009]" in text
    assert "1e$-$05" in text
    assert not re.search(r"\d[.,]\\allowbreak\{\}\d", text)
    assert r"first-\allowbreak{}biology" in text, "names still break"
