"""Tokens, rounds and the legend as HTML, for the live view, replay, comparison and report.

All text is escaped, and invisible characters are made visible. The style comes from the table of marks
(`theme.fate_css`) and `CSS` here; `tone` is 'light' or 'dark'. A token's numbers appear when it is
pointed at, focused with the keyboard or touched.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from rich.cells import cell_len, set_cell_size

from engine.decode.events import EMITTED, MARKS, Fate, Round, Token
from engine.untrusted.visible import looked_at

Href = Callable[[int], str]  # number of a round -> URL of a click on it

_SHOWN = 5  # alternatives in a token's tip
_GLYPHS = {Fate.ACCEPTED: "", Fate.REJECTED: "×", Fate.DISCARDED: "·", Fate.CORRECTED: "=", Fate.BONUS: "+"}

CSS = """
.tokens,.strip{position:relative}
.tokens .now{outline:2px solid currentColor;outline-offset:2px;border-radius:.2em}
.tokens del{text-decoration:none}
.tokens .ctl{opacity:.5;user-select:none;font-size:.8em}
[data-tip]:hover,[data-tip]:focus{opacity:1;outline:1.5px solid currentColor;outline-offset:1px}
[data-tip]:hover::after,[data-tip]:focus::after{content:attr(data-tip);position:absolute;left:0;margin-top:1.9em;
z-index:30;max-width:100%;padding:.55em .75em;border-radius:.4em;background:#16202a;color:#fff;white-space:pre-wrap;
font:12px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;text-align:left;text-indent:0;
box-shadow:0 4px 18px rgba(0,0,0,.35);pointer-events:none}
.strip{display:flex;flex-wrap:wrap;align-items:flex-end;gap:6px 3px;padding:.2rem 0}
.strip .round{display:flex;flex-direction:column-reverse;gap:1px;border-radius:3px;color:inherit;text-decoration:none}
.strip .round::after{top:100%;margin-top:.3em!important}
.cell{display:block;width:13px;height:11px;border-radius:2px;font:bold 10px/11px ui-monospace,Menlo,Consolas,monospace;
text-align:center;text-decoration:none!important}
.legend .cell{display:inline-block;vertical-align:-1px;margin-right:.35em}
"""


def visible(text: str) -> str:
    """The text escaped for HTML, with signs for control and bidirectional characters; line breaks stay."""
    return "".join(_sign(c, hidden) for c, hidden in looked_at(text))


def _sign(c: str, hidden: bool) -> str:
    if c == "\n":
        return '<span class="ctl">↵</span>\n'
    if c == "\t":
        return '<span class="ctl">⇥</span>\t'
    if c < " " or c == "\x7f":
        return "\u2421" if c == "\x7f" else chr(0x2400 + ord(c))
    if hidden:
        return f"⟨U+{ord(c):04X}⟩"
    return html.escape(c, quote=True)


def plainly(text: str) -> str:
    """The text on one line with signs but without markup, for tips and labels; not escaped."""
    shown = "".join(_word(c) if hidden or c in "\n\t" else c for c, hidden in looked_at(text))
    return f"'{shown}'" if shown else "part of a character"


def _word(c: str) -> str:
    return {"\n": "↵", "\t": "⇥"}.get(c) or (chr(0x2400 + ord(c)) if c < " " else f"⟨U+{ord(c):04X}⟩")


def token_html(token: Token, href: str | None = None, current: Round | None = None) -> str:
    """A token marked by its fate, with its numbers in a tip. `current`: its round."""
    text = visible(token.text) or '<span class="ctl">⋯</span>'
    if token.fate not in EMITTED:
        text = text.replace("\n", "")  # a rejected line break must not break the answer's line
        text = f"<del>{text}</del>"  # for those who hear the page, and neither see the line through it nor the tint
    tag = f'a href="{html.escape(href)}" target="_top"' if href else 'span tabindex="0"'
    shut = "a" if href else "span"
    return f'<{tag} class="tok fate-{token.fate}" data-tip="{html.escape(tip(token, current))}">{text}</{shut}>'


def tip(token: Token, current: Round | None = None) -> str:
    """The numbers of a token, line by line; not escaped. `current`: its round."""
    lines = [f"{plainly(token.text)} {token.fate}: {_meaning(token, current)}"]
    lines.append(f"position {token.position}, token id {token.token_id}")
    digits = digits_apart(token.uniform, token.acceptance_prob, _number, 4)
    named = [("p", token.target_prob), ("q", token.draft_prob), ("min(1, p/q)", token.acceptance_prob)]
    if numbers := [f"{name} = {_number(value, digits)}" for name, value in named if value is not None]:
        lines.append("   ".join(numbers))
    if token.uniform is not None and token.acceptance_prob is not None:
        verdict = "below it: accepted" if token.fate is Fate.ACCEPTED else "not below it: rejected"
        lines.append(f"u = {_number(token.uniform, digits)}, {verdict}")
    if token.overlap is not None:
        lines.append(f"expected acceptance here, sum of min(p, q) = {_number(token.overlap)}")
    if token.alternatives:
        ranked = sorted(token.alternatives, key=lambda other: -max(other.target_prob, other.draft_prob))
        lines += ["", "most likely here     p        q"]
        lines += [
            f"{_in_column(plainly(a.text), 16)} {_number(a.target_prob):>8} {_number(a.draft_prob):>8}"
            for a in ranked[:_SHOWN]
        ]
    return "\n".join(lines)


def _in_column(text: str, columns: int) -> str:
    """The text in so many columns, of which Chinese characters and emoji take two; what is cut ends in '…'."""
    if cell_len(text) > columns:
        text = f"{set_cell_size(text, columns - 1).rstrip()}…"
    return set_cell_size(text, columns)


def _meaning(token: Token, current: Round | None) -> str:
    """What became of the token; in its own round, where the usual reason may not be the one."""
    if current is not None and token.fate is Fate.DISCARDED and not current.rejected:
        return "proposed after the end of the answer, never judged"
    if current is not None and token.fate is Fate.BONUS and not current.num_draft_tokens:
        return "from the target alone, as nothing was proposed"
    return MARKS[token.fate].meaning


def digits_apart(draw: float | None, chance: float | None, write: Callable[[float, int], str], usual: int) -> int:
    """How many digits show which of a draw and its chance is larger: `usual`, or more where they would read alike."""
    if draw is None or chance is None or draw == chance:
        return usual
    counts = range(usual, 17)
    return next((some for some in counts if float(write(draw, some)) != float(write(chance, some))), usual)


def _number(value: float, digits: int = 4) -> str:
    """'0.4164'; '1.2e-06' where so many decimals would be none, or one: a quotient of such could not be followed."""
    return f"{value:.{digits - 3}e}" if 0 < value < 10 ** (1 - digits) else f"{value:.{digits}f}"


def answer_html(
    rounds: Sequence[Round],
    *,
    tone: str = "light",
    href: Href | None = None,
    highlight: int | None = None,
) -> str:
    """The whole answer with its rejected tokens. `highlight`: number of the round to frame."""
    parts = []
    for item in rounds:
        link = href(item.number) if href else None
        inner = "".join(token_html(t, link, item) for t in item.tokens)
        parts.append(f'<span class="now">{inner}</span>' if item.number == highlight else inner)
    return f'<div class="tokens {_tone(tone)}" dir="auto">{"".join(parts)}</div>'


def strip_html(rounds: Sequence[Round]) -> str:
    """One bar per round, from its first token at the bottom to the target's own token at the top."""
    bars = "".join(map(_bar, rounds))
    accepted, proposed = sum(r.accepted for r in rounds), sum(r.num_draft_tokens for r in rounds)
    label = f"{len(rounds)} rounds, one bar each: {accepted} of {proposed} proposed tokens accepted"
    return f'<div class="strip light" role="group" aria-label="{label}">{bars}</div>'


def _bar(item: Round) -> str:
    cells = "".join(f'<i class="cell fate-{t.fate}">{_GLYPHS[t.fate]}</i>' for t in item.tokens)
    judged = f"{item.accepted} of {item.num_draft_tokens} accepted, {len(item.emitted)} emitted"
    summary = f"round {item.number}: {judged}, {1000 * item.seconds:.0f} ms"
    return f'<span class="round" data-tip="{summary}">{cells}</span>'


def legend_html(*, tone: str = "light") -> str:
    """The legend of the marks."""
    entries = "".join(
        f'<span><i class="cell fate-{fate}">{_GLYPHS[fate]}</i>'
        f'<span class="tok fate-{fate}">{fate}</span> {html.escape(mark.meaning)}</span>'
        for fate, mark in MARKS.items()
    )
    return f'<div class="legend {_tone(tone)}">{entries}</div>'


def _tone(tone: str) -> str:
    return "dark" if tone == "dark" else "light"
