"""Colours and styles: the palette, the marks of the fates as CSS, the Plotly template.

The Okabe-Ito colours are distinguishable with any common colour blindness, and no meaning is
carried by colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import streamlit as st
from plotly.colors import sample_colorscale, unlabel_rgb

from engine.decode.events import MARKS
from workbench.shared import tokens

# Okabe and Ito's palette without its yellow, which is too pale for lines on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
SEQUENTIAL = "Cividis"  # perceptually uniform, and safe for colour blindness
_TINT = {"light": "55", "dark": "66"}  # alpha of a fate's tint behind the text, hex


@dataclass(frozen=True)
class Tone:
    """The colours of a page that its figures use."""

    text: str
    faint: str
    grid: str
    background: str


TONES = {
    "light": Tone("#16202a", "#5b6873", "#dfe6eb", "#ffffff"),
    "dark": Tone("#e8eef3", "#a3b1bd", "#2d3a45", "#10161c"),
}


def shade(share: float) -> str:
    """The colour of `SEQUENTIAL` at a share of its range, from 0 to 1: 'rgb(12, 34, 56)'."""
    return str(sample_colorscale(SEQUENTIAL, min(1.0, max(0.0, share)))[0])


def readable_on(background: str) -> str:
    """Black or white, whichever has more contrast (WCAG 2.2) to 'rgb(12, 34, 56)': at least 4.5 to any colour."""
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (number / 255 for number in unlabel_rgb(background))
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


def mode() -> str:
    """The current theme of the visitor's page: 'light' or 'dark'."""
    return "dark" if getattr(st.context.theme, "type", None) == "dark" else "light"


def template(tone: str) -> go.layout.Template:
    """The Plotly template of all figures: quiet axes, readable labels, a transparent background."""
    colours = TONES[tone]
    axis: dict[str, Any] = {
        "gridcolor": colours.grid,
        "linecolor": colours.grid,
        "zerolinecolor": colours.grid,
        "ticks": "outside",
        "tickcolor": colours.grid,
        "title": {"standoff": 10},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": "'Source Sans', sans-serif", "size": 13, "color": colours.text},
            "title": {"x": 0, "xanchor": "left", "font": {"size": 15}},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": PALETTE,
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0},
            "margin": {"l": 56, "r": 16, "t": 72, "b": 48},
            "hoverlabel": {"align": "left"},
        }
    )


def fate_css() -> str:
    """The CSS classes `fate-accepted`, ... from the table of marks. Text keeps the page's own colour."""
    rules = []
    for fate, mark in MARKS.items():
        faint = "opacity:.72;" if mark.faint else ""
        for scheme, alpha in _TINT.items():
            rules.append(f".{scheme} .fate-{fate}{{background:{mark.tint}{alpha}}}")
        rules.append(f".fate-{fate}{{text-decoration:{mark.decoration};text-decoration-thickness:.12em;{faint}}}")
    return "".join(rules) + _TOKEN_CSS + tokens.CSS


# White space is part of a token, so it is kept; a long token may break anywhere.
_TOKEN_CSS = """
.tokens{font-size:1.02rem;line-height:1.9;white-space:pre-wrap;overflow-wrap:anywhere}
.tokens .tok{border-radius:.2em;padding:.08em 0;margin:0 .5px;cursor:default}
.tokens a.tok{color:inherit}
.legend{display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;font-size:.86rem;align-items:baseline}
.legend .tok{padding:.05em .45em;border-radius:.25em}
"""

_PAGE_CSS = """
.block-container{padding-top:3rem;padding-bottom:4rem;max-width:1440px}
h1{letter-spacing:-.01em}
.purpose{font-size:1.04rem;opacity:.78;margin:-.7rem 0 .9rem}
[class*="st-key-cards-"]>[data-testid="stLayoutWrapper"]>[data-testid="stHorizontalBlock"]{display:grid;
grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr))}
.st-key-cards-results>[data-testid="stLayoutWrapper"]>[data-testid="stHorizontalBlock"]{
grid-template-columns:repeat(auto-fit,minmax(min(100%,14rem),1fr))}
[class*="st-key-cards-"]>[data-testid="stLayoutWrapper"]>[data-testid="stHorizontalBlock"]>[data-testid="stColumn"]{
width:auto;min-width:0}
[class*="st-key-wide-"]{overflow-x:auto}
[class*="st-key-wide-"]>*{min-width:840px}
"""

# Captions, keys, code and folded headings are too faint, and in the dark white on a primary button or a chosen option:
# WCAG asks for a contrast of 4.5.
_CONTRAST_CSS = """
[data-testid="stBaseButton-primary"]:not(:disabled){background:#0072b2!important;border-color:#0072b2!important;
color:#fff!important}
[data-testid="stBaseButton-primary"]:hover:not(:disabled){background:#005f94!important}
[data-testid="stMultiSelect"] [data-tag-index]{background:#0072b2!important}
[data-testid="stMultiSelect"] [data-tag-index] *{color:#fff!important}
[data-testid="stCaptionContainer"]{color:inherit!important;opacity:.82}
[data-testid="stCaptionContainer"] [data-testid="stCaptionContainer"]{opacity:1}
kbd{color:inherit!important;opacity:.85!important}
[data-testid="stExpander"] summary{opacity:.85!important}
[data-testid="stCode"] .token{color:inherit!important}
"""

# One blue that has a contrast of 3 to the light and to the dark background; on a text field around the whole field.
_FIELDS = ",".join(
    f'[data-testid="{name}"]'
    for name in (
        "stTextInputRootElement",
        "stTextAreaRootElement",
        "stNumberInputContainer",
        "stSelectbox",
        "stMultiSelect",
    )
)
FOCUS_CSS = f"""
:focus-visible,:is({_FIELDS}):has(:is(input,textarea):focus-visible){{outline:3px solid #2589c9!important;
outline-offset:2px!important}}
:is({_FIELDS}) :is(input,textarea):focus-visible{{outline:none!important}}
label:has(>input:focus-visible),label:has(>span>input:focus-visible){{outline:3px solid #2589c9;outline-offset:2px}}
"""

_SIDEBAR_CSS = """
.look{display:flex}
.look button,.keys,dialog.shortcuts button{font:inherit;font-size:.86rem;color:inherit;background:none;cursor:pointer;
border:1px solid rgb(127 127 127/.45);padding:.25rem .6rem;border-radius:.25rem}
.look button{flex:1;border-radius:0;margin-left:-1px}
.look button[aria-pressed="true"]{background:#0072b2;color:#fff;border-color:#0072b2}
.keys{margin-top:.5rem;width:100%;text-align:left}
kbd{font:inherit;font-family:ui-monospace,Menlo,Consolas,monospace;border:1px solid rgb(127 127 127/.6);
border-radius:.2rem;padding:0 .35em}
dialog.shortcuts{border:1px solid rgb(127 127 127/.6);border-radius:.5rem;padding:1.2rem 1.6rem;
font-family:'Source Sans',sans-serif;background:#fff;color:#16202a}
dialog.shortcuts[data-dark="true"]{background:#1a232c;color:#e8eef3}
dialog.shortcuts h2{font-size:1.2rem;margin:0 0 .8rem}
dialog.shortcuts td{padding:.2rem 1.4rem .2rem 0}
dialog.shortcuts button{margin-top:.8rem}
"""


def inject() -> None:
    """Add the styles to the page, once per script run."""
    st.html(f"<style>{_PAGE_CSS}{_CONTRAST_CSS}{FOCUS_CSS}{_SIDEBAR_CSS}{fate_css()}</style>")
