"""The editor of a conversation's turns: a Gradio component whose value is the list of messages.

It is HTML with a script (`turns_editor.js`) and not a row of Gradio's own boxes: the number of turns has no limit, and
what was typed is part of the value at once, so that Decode never sends an older text.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

CSS = """
.turns{display:flex;flex-direction:column;gap:.6rem}
.turns .head{display:flex;flex-wrap:wrap;gap:.3rem .6rem;align-items:center;font-size:.86rem;margin-bottom:.2rem}
.turns .name{font-weight:600}
.turns select,.turns button{font:inherit;color:inherit;background:var(--background-fill-secondary);
border:1px solid var(--border-color-primary);border-radius:.3rem;padding:.15rem .5rem;cursor:pointer;min-height:1.75rem}
.turns select{padding-right:1.6rem}
.turns .add{align-self:flex-start;font-size:.86rem}
.turns textarea{width:100%;box-sizing:border-box;font:inherit;color:inherit;background:var(--input-background-fill);
border:1px solid var(--border-color-primary);border-radius:.3rem;padding:.5rem .6rem;resize:vertical;
field-sizing:content;max-height:20rem;overflow-wrap:anywhere}
.turns .turn textarea+textarea{margin-top:.3rem;font-family:var(--font-mono);font-size:.86rem}
.turns :is(textarea,select,button):focus-visible{outline:2px solid var(--slider-color,#0072B2);outline-offset:1px}
.turns textarea::placeholder{color:var(--body-text-color-subdued);opacity:1}
.turns .loading{margin:0;min-height:5rem;color:var(--body-text-color-subdued)}
.turns .others{margin:.2rem 0 0;font-size:.8rem;color:var(--body-text-color-subdued);overflow-wrap:anywhere}
"""
EMPTY = [{"role": "user", "content": ""}]


def turns_editor() -> gr.HTML:
    """Place the editor. It offers nothing to type into until the form gives it turns, which would replace the text."""
    return gr.HTML(
        None,
        html_template='<div class="turns"></div>',
        js_on_load=Path(__file__).with_suffix(".js").read_text(encoding="utf-8"),
        apply_default_css=False,
        label="Turns",
        elem_id="turns",
    )
