"""What reaches the terminal: whole characters, harmless characters, honest numbers."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from random import Random

import pytest
from rich.console import Console

from engine.cli.text import console
from engine.decode.events import Fate, Round, Token
from engine.errors import DraftbenchError
from engine.records.interval import Interval
from tests.conftest import byte_tokenizer


def made_round(*tokens: tuple[int, Fate]) -> Round:
    proposed = sum(fate in (Fate.ACCEPTED, Fate.REJECTED, Fate.DISCARDED) for _, fate in tokens)
    return Round(0, 0, proposed, tuple(Token(i, fate, n) for n, (i, fate) in enumerate(tokens)), 0.0, 0.0, 0.0)


def test_coloured_tokens_are_whole_characters_even_if_rounds_cut_them():
    tokenizer = byte_tokenizer()
    light = tokenizer.encode("光", add_special_tokens=False)
    smile = tokenizer.encode("🙂", add_special_tokens=False)
    assert (len(light), len(smile)) == (3, 4)
    rounds = [
        made_round(
            (light[0], Fate.ACCEPTED), (light[0], Fate.REJECTED), (light[1], Fate.DISCARDED), (light[1], Fate.CORRECTED)
        ),
        made_round((light[2], Fate.ACCEPTED), (smile[0], Fate.BONUS)),
        made_round(*((i, Fate.ACCEPTED) for i in smile[1:]), (tokenizer.encode("a")[0], Fate.BONUS)),
    ]
    pieces = [text.plain for text in console.coloured(rounds, tokenizer, refused=False)]
    assert pieces == ["", "光", "🙂a"]


def test_refused_tokens_are_shown_where_they_were_proposed_and_only_if_asked_for():
    tokenizer = byte_tokenizer()
    a, b, c, d = tokenizer.encode("abcd")
    rounds = [made_round((a, Fate.ACCEPTED), (b, Fate.REJECTED), (c, Fate.DISCARDED), (d, Fate.CORRECTED))]
    [shown] = console.coloured(rounds, tokenizer, refused=True)
    [hidden] = console.coloured(rounds, tokenizer, refused=False)
    assert (shown.plain, hidden.plain) == ("abcd", "ad")
    styles = {str(span.style) for span in shown.spans}
    assert len(styles) == 4
    assert sum("strike" in style for style in styles) == 2, "a refused token is struck through, not only coloured"


def test_without_styles_refused_tokens_do_not_read_as_the_answer():
    tokenizer = byte_tokenizer()
    a, b, c, d = tokenizer.encode("abcd")
    rounds = [made_round((a, Fate.ACCEPTED), (b, Fate.REJECTED), (c, Fate.DISCARDED), (d, Fate.CORRECTED))]
    [shown] = console.coloured(rounds, tokenizer, refused=True, styled=False)
    [hidden] = console.coloured(rounds, tokenizer, refused=False, styled=False)
    assert (shown.plain, hidden.plain) == ("a[-bc-]d", "ad")


def test_plain_decoding_has_no_marks():
    """Every token of it was bold and underlined, as one that follows a whole proposal."""
    tokenizer = byte_tokenizer()
    [text] = console.coloured([made_round((tokenizer.encode("a")[0], Fate.BONUS))], tokenizer, refused=True)
    assert {str(span.style) for span in text.spans} <= {""}


def test_a_token_cannot_steer_the_terminal():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("\x1b[2J\r\x07x", add_special_tokens=False)
    [text] = console.coloured([made_round(*((i, Fate.ACCEPTED) for i in ids))], tokenizer, refused=True)
    assert text.plain == "␛[2J␍␇x"


def test_an_error_is_three_lines_on_standard_error(capsys: pytest.CaptureFixture[str]):
    console.print_error(DraftbenchError("no [model] here", "it is \x1b gone", "try another"))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["error: no [model] here", "  why: it is ␛ gone", "  fix: try another"]


def test_json_has_no_words_for_infinity(capsys: pytest.CaptureFixture[str]):
    console.print_json({"a": [float("inf"), float("nan"), 1.5], 2: "光"})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"a": [None, None, 1.5], "2": "光"}


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(0.4123, 0.39, 0.4336), ".412 [.390, .434]"),
        (Interval(-0.012, -0.03, 0.006), "-.012 [-.030, .006]"),
        (Interval(10.05, 9.9, 10.2), "10.050 [9.900, 10.200]"),
        (Interval(0.5), ".500"),
        (Interval(), "-"),
    ],
)
def test_a_rate_is_written_without_the_zero_before_its_point(interval: Interval, expected: str):
    assert console.rate(interval) == expected


def printed(capture: io.StringIO, show: Callable[[], None]) -> list[str]:
    capture.truncate(0)
    capture.seek(0)
    show()
    return [text.rstrip() for text in capture.getvalue().splitlines()]


LONG_ID = "function_calling-historical-forward_kl-seed1-20261122-105041-6194-abcd"


@pytest.mark.parametrize("width", [20, 50, 69, 80, 100, 118, 160])
def test_an_id_in_a_table_is_whole_at_every_width(width: int, monkeypatch: pytest.MonkeyPatch):
    capture = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=capture, width=width, highlight=False, soft_wrap=True))
    rows = [
        [LONG_ID, "done", "function_calling", "forward_kl", "0.243 (T=0)\n0.251 (T=1)"],
        ["short", "done", "x", "y", "-"],
    ]
    lines = printed(capture, lambda: console.table("", ["run", "state", "domain", "loss", "exact"], rows))
    assert sum(LONG_ID in one for one in lines) == 1
    assert max(len(one) for one in lines if LONG_ID not in one) <= width
    words = " ".join(lines).split()
    assert all(words.count(word) == count for word, count in [("function_calling", 1), ("(T=1)", 1), ("loss", 1)])
    if len(LONG_ID) < width < 118:
        assert lines[2:] == [
            LONG_ID,
            "  done   function_calling  forward_kl  0.243 (T=0)",
            "                                       0.251 (T=1)",
            "short",
            "  done   x                 y           -",
        ]


def test_an_id_in_a_paragraph_is_whole(monkeypatch: pytest.MonkeyPatch):
    capture = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=capture, width=30, highlight=False, soft_wrap=True))
    lines = printed(capture, lambda: console.paragraph(f"run {LONG_ID} waits for its turn on the other machine", 2))
    assert lines == ["  run", f"  {LONG_ID}", "  waits for its turn on the", "  other machine"]
    assert printed(capture, lambda: console.paragraph("a " + "细胞" * 14, 2)) == [
        "  a",
        "  " + "细胞" * 7,
        "  " + "细胞" * 7,
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_table_that_fits_is_written_as_rich_writes_it(seed: int, monkeypatch: pytest.MonkeyPatch):
    random = Random(seed)
    words = ["", "a", "0.243 (T=0)\n0.251 (T=1)", "细胞", "[bold]x[/]", "\x1b[2J", "🙂 ok", "-", 7, 3.25]
    columns = random.choice([["run", "状态", ""], ["", "", ""]])
    rows = [[random.choice(words) for _ in columns] for _ in range(random.randrange(5))]
    capture = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=capture, width=100, highlight=False, soft_wrap=True))
    numeric = [console._numeric([row[index] for row in rows]) for index in range(len(columns))]
    plain = printed(capture, lambda: console.table("", columns, rows))
    assert plain == printed(capture, lambda: console._print_wrapped(columns, rows, numeric))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_is_not_utf_8_gets_whole_json_and_escapes(encoding: str, monkeypatch: pytest.MonkeyPatch):
    bytes_out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(bytes_out, encoding=encoding))
    console.guard_streams()
    text = {"prompt": "é 光 🙂"}
    console.print_json(text)
    print("光")
    sys.stdout.flush()
    document, _, plain = bytes_out.getvalue().decode(encoding).rpartition("}\n")
    assert json.loads(document + "}") == text
    assert plain == "\\u5149\n"
