"""No character of a stranger's text steers a terminal or hides; what a writing system needs stays as it is."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest

from engine.cli.text import console
from engine.errors import DraftbenchError
from engine.paths import PROJECT_ROOT
from engine.untrusted import visible

ESCAPE = "\x1b]0;owned\x07\x9b31m"  # renames the window; then a colour, by a C1 control
HIDDEN = {
    "\x00": "\u2400",
    "\x1b": "\u241b",
    "\r": "\u240d",
    "\x08": "\u2408",
    "\x7f": "\u2421",
    "\x80": "\\x80",
    "\x85": "\\x85",
    "\x9b": "\\x9b",
    "\x9d": "\\x9d",
    "\x9f": "\\x9f",
    "\xad": "\\xad",
    "\u061c": "\\u061c",
    "\u200b": "\\u200b",
    "\u200e": "\\u200e",
    "\u200f": "\\u200f",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
    "\u2060": "\\u2060",
    "\ufeff": "\\ufeff",
    "\u3164": "\\u3164",
    "\u115f": "\\u115f",
    "\ud800": "\\ud800",
    "\U000e0041": "\\U000e0041",
    "\U000e0001": "\\U000e0001",
    **{chr(code): f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
}


@pytest.mark.parametrize(("hidden", "sign"), HIDDEN.items(), ids=[f"U+{ord(c):04X}" for c in HIDDEN])
def test_a_hidden_character_is_shown(hidden: str, sign: str):
    assert visible.visible(f"a{hidden}b") == f"a{sign}b"
    assert visible.visible(hidden) == sign


@pytest.mark.parametrize(
    "text",
    [
        "plain, with\nlines and\ttabs",
        "你好，世界",
        "السلام عليكم",
        "שלום",
        "می\u200cخواهم",
        "क्\u200dष",
        "é e\u0301",
        "👨\u200d👩\u200d👧",
        "❤\ufe0f\u200d🔥",
        "🏳\ufe0f\u200d🌈",
        "1\ufe0f\u20e3",
        "🇩🇪",
        "葛\U000e0100城",
        "\u0600\u0661",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\ufffd",
        "\u200d",
    ],
)
def test_text_of_every_language_stays(text: str):
    assert visible.visible(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "pay\u200dpal",
        "a\u200c",
        "\u200cb",
        "x\ufe0f",
        "😀" + "\ufe01" * 3,
        "\U0001f3f4\U000e0061\U000e007f",
        "葛\U000e0100\U000e0101",
    ],
)
def test_what_joins_or_varies_nothing_is_shown(text: str):
    assert "\\" in visible.visible(text)


def test_making_visible_twice_changes_nothing_more():
    once = visible.visible("".join(HIDDEN))
    assert visible.visible(once) == once


def test_json_says_the_same_with_escapes_that_a_terminal_prints():
    value = {"".join(HIDDEN): ["你好 👨\u200d👩\u200d👧", "\U000e0041", ESCAPE]}
    document = visible.visible_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(document) == value
    assert visible.visible(document) == document
    assert "你好 👨\u200d👩\u200d👧" in document


def test_everything_the_console_prints_is_visible(capsys: pytest.CaptureFixture[str]):
    bad = ESCAPE + "".join(HIDDEN)
    console.line(bad)
    console.paragraph(bad)
    console.entries([(bad, bad)])
    console.table(bad, ["a"], [[bad]])
    console.out.print(bad)  # also past the functions for it
    console.err.print(f"run {bad}", markup=False)
    console.print_json({bad: bad})
    console.print_document(bad)
    console.print_error(DraftbenchError(bad, bad, bad))
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert text
        assert visible.visible(text) == text
    assert "\\x9b31m" in captured.out


def test_a_table_stays_in_line_though_its_cells_hide_something(capsys: pytest.CaptureFixture[str]):
    console.table("", ["name", "rate"], [["a\u202e\x9b", 0.75], ["b", 0.25]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].find("0.75") == lines[2].find("0.25") > 0


def test_logs_and_their_tracebacks_are_visible():
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("draftbench")
    logger.addHandler(handler)
    try:
        import workbench  # noqa: F401  it makes the logger of the workbench visible

        logger.warning("a %s", ESCAPE)
        try:
            raise ValueError(ESCAPE)
        except ValueError:
            logger.exception("it failed")
    finally:
        logger.removeHandler(handler)
    assert "ValueError" in out.getvalue()
    assert visible.visible(out.getvalue()) == out.getvalue()


def test_a_program_with_guarded_streams_prints_nothing_hidden():
    code = (
        "import logging, warnings; from engine.cli.text import console\n"
        "console.guard_streams(); console.guard_streams()\n"
        f"bad = {ESCAPE!r}\n"
        "logging.getLogger('transformers').warning('a %s', bad); warnings.warn(bad); raise RuntimeError(bad)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\\x9b31m") >= 3
    assert visible.visible(done.stderr) == done.stderr
