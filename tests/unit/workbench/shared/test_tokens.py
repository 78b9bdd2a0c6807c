"""Tokens as HTML: nothing of a token can become markup, and nothing in it stays hidden."""

from html.parser import HTMLParser

import pytest
from rich.cells import cell_len

from engine.decode.events import Alternative, Fate, Round, Token
from workbench.shared import tokens

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onfocus='x",
    "&lt;b&gt;",
    "</span><h1>",
    "javascript:alert(1)",
    "--><!--",
    "]]>",
]


class Seen(HTMLParser):
    """What a browser would make of it: tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def token(text, fate=Fate.ACCEPTED, **numbers):
    usual = {"target_prob": 0.5, "draft_prob": 0.4, "uniform": 0.1, "overlap": 0.7}
    return Token(7, fate, 3, text=text, **{**usual, **numbers})


def round_of(*some, number=0, reason=None):
    proposed = sum(t.fate in (Fate.ACCEPTED, Fate.REJECTED, Fate.DISCARDED) for t in some)
    return Round(0, number, proposed, tuple(some), 0.1, 0.2, 0.0, reason)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_token_is_text_and_never_markup(text):
    other = Alternative(1, 0.5, 0.5, text)
    seen = Seen(tokens.answer_html([round_of(token(text, alternatives=(other,)))]))
    assert set(seen.tags) == {"div", "span"}
    assert {name for name, _ in seen.attributes} <= {"class", "dir", "tabindex", "data-tip"}
    assert seen.text == text
    assert not seen.open
    (tip,) = [value for name, value in seen.attributes if name == "data-tip"]
    assert text[:16] in tip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_link_cannot_break_out_of_its_attribute(text):
    seen = Seen(tokens.answer_html([round_of(token("x"))], href=lambda number: f"/replay?trace={text}&round={number}"))
    assert ("href", f"/replay?trace={text}&round=0") in seen.attributes
    assert set(seen.tags) == {"div", "a"}


def test_a_tone_is_one_of_two():
    assert 'class="tokens light"' in tokens.answer_html([], tone='"><script>')
    assert 'class="tokens dark"' in tokens.answer_html([], tone="dark")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "␛[31m"),
        ("\x00", "␀"),
        ("\x7f", "␡"),
        ("\x85", "⟨U+0085⟩"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("\u200b", "⟨U+200B⟩"),
        ("\ufeff", "⟨U+FEFF⟩"),
        ("\u2028", "⟨U+2028⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("\r", "␍"),
        ("👨‍👩‍👧", "👨‍👩‍👧"),
        ("你好 é", "你好 é"),
        ("\ufffd", "\ufffd"),
    ],
)
def test_what_would_be_invisible_is_shown(text, shown):
    html = tokens.visible(text)
    assert Seen(html).text == shown
    html.encode("utf-8")
    tokens.plainly(text).encode("utf-8")


def test_line_breaks_stay_and_are_marked():
    assert Seen(tokens.visible("a\nb\tc")).text == "a↵\nb⇥\tc"


def test_a_refused_line_break_does_not_break_the_answer():
    some = (token("x"), token("\n", Fate.REJECTED), token("\n\n", Fate.DISCARDED), token("y", Fate.CORRECTED))
    assert Seen(tokens.answer_html([round_of(*some)])).text == "x↵↵↵y"


def test_part_of_a_character_still_has_a_place():
    assert Seen(tokens.token_html(token(""))).text == "⋯"


def test_each_fate_has_its_class_and_the_legend_explains_all():
    some = [token("x", fate) for fate in Fate]
    answer, legend = tokens.answer_html([round_of(*some)]), tokens.legend_html()
    for fate in Fate:
        assert f'class="tok fate-{fate}"' in answer
        assert f"fate-{fate}" in legend


def test_the_tip_tells_the_numbers_that_decided():
    tip = tokens.tip(token("x", Fate.REJECTED, target_prob=0.2, draft_prob=0.8, uniform=0.25, overlap=0.5))
    assert "p = 0.2000" in tip
    assert "q = 0.8000" in tip
    assert "min(1, p/q) = 0.2500" in tip
    assert "not below it: rejected" in tip
    assert "= 0.5000" in tip


def test_the_tip_of_a_bonus_token_says_nothing_of_a_judgement():
    tip = tokens.tip(token("x", Fate.BONUS, draft_prob=None, overlap=None))
    assert "min(" not in tip
    assert "u =" not in tip


@pytest.mark.parametrize(
    ("p", "q", "u", "numbers", "draw"),
    [
        (1.2e-6, 3.1e-5, 0.5, "p = 1.2e-06   q = 3.1e-05   min(1, p/q) = 0.0387", "u = 0.5000, not below"),
        (0.41642, 1.0, 0.41638, "p = 0.41642   q = 1.00000   min(1, p/q) = 0.41642", "u = 0.41638, below it"),
    ],
)
def test_the_numbers_of_a_tip_can_be_followed(p, q, u, numbers, draw):
    """The first read "p = 0.0000   q = 0.0000   min(1, p/q) = 0.0387", the second gave one number for both."""
    fate = Fate.ACCEPTED if u * q < p else Fate.REJECTED
    tip = tokens.tip(token("x", fate, target_prob=p, draft_prob=q, uniform=u))
    assert numbers in tip
    assert draw in tip


def test_a_tip_gives_the_reason_that_its_own_round_has():
    lost, bonus = token("x", Fate.DISCARDED), token("y", Fate.BONUS)
    assert "after the rejection" in tokens.tip(lost, round_of(token("a", Fate.REJECTED), lost, token("b")))
    assert "after the end of the answer" in tokens.answer_html([round_of(token("<|end|>"), lost, reason="stop")])
    assert "as all were accepted" in tokens.tip(bonus, round_of(token("a"), bonus))
    assert "as nothing was proposed" in tokens.answer_html([round_of(bonus)])


def test_a_tip_lists_what_either_model_finds_likely():
    """It listed the target's five likeliest alone, and never what the draft had wanted to write."""
    others = tuple(Alternative(i, 0.2 - i / 100, 0.01, f"t{i}") for i in range(6))
    tip = tokens.tip(token("x", alternatives=(*others, Alternative(9, 0.0001, 0.6, "draft"))))
    assert [line.split()[0] for line in tip.splitlines()[-5:]] == ["'draft'", "'t0'", "'t1'", "'t2'", "'t3'"]


@pytest.mark.parametrize("text", ["为什么为什么", " the", "", "🙂", "incomprehensibilities"])
def test_the_numbers_of_a_tip_stand_in_columns(text):
    line = tokens.tip(token("x", alternatives=(Alternative(1, 0.5, 0.25, text),))).splitlines()[-1]
    assert cell_len(line) == 34
    assert line.endswith(" 0.5000   0.2500")
    assert ("…" in line) == (cell_len(tokens.plainly(text)) > 16)


def test_who_hears_the_page_is_told_what_does_not_belong_to_the_answer():
    some = [token("x", fate) for fate in Fate]
    assert Seen(tokens.answer_html([round_of(*some)])).tags.count("del") == 2
    linked = tokens.answer_html([round_of(token("x", Fate.REJECTED))], href=lambda number: "/replay")
    assert "<del>x</del></a>" in linked


def test_a_tip_is_reached_by_keyboard():
    assert ("tabindex", "0") in Seen(tokens.token_html(token("x"))).attributes


def test_the_strip_has_a_bar_a_round_with_a_second_mark_besides_colour():
    first = round_of(token("a"), token("b", Fate.REJECTED), token("c", Fate.CORRECTED))
    html = tokens.strip_html([first, round_of(token("d", Fate.BONUS), number=1)])
    assert html.count('class="round"') == 2
    assert "×" in html
    assert 'data-tip="round 0: 1 of 2 accepted, 2 emitted, 300 ms"' in html
    assert "1 of 2 proposed tokens accepted" in html


def test_the_round_looked_at_is_framed():
    html = tokens.answer_html([round_of(token("a")), round_of(token("b"), number=1)], highlight=1)
    assert Seen(html.split('class="now">')[1].split("</span>")[0] + "</span>").text == "b"
