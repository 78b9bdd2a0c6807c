"""Draws docs/decode.svg, the README's picture: one answer with the fate of each token.

    python docs/picture.py

The draft is the generic one that comes with Draftbench; half a minute on two cores.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from engine.cli.text.console import coloured, legend
from engine.paths import home
from engine.traces.one_prompt import decode_prompt

PROMPT = "Why do leaves turn red in autumn?"


def main(draft: str) -> None:
    """Decode PROMPT with a draft of the embedded target and save what the terminal shows as SVG."""
    made = decode_prompt(
        home(),
        PROMPT,
        run_id=None,
        target=None,
        draft=draft,
        gamma=3,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=72,
        seed=0,
        dtype="auto",
    )
    canvas = Console(record=True, width=104, file=io.StringIO(), highlight=False)
    canvas.print(f'$ draftbench decode --draft {draft} --prompt "{PROMPT}"\n', style="bold")
    answer = Text()
    for piece in coloured(made.rounds(), made.tokenizer, refused=True):
        answer.append_text(piece)
    canvas.print(answer, "\n")
    canvas.print(legend())
    canvas.print(f"\n{made.told()}")
    out = Path(__file__).with_name("decode.svg")
    canvas.save_svg(str(out), title="draftbench decode")
    print(out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sample_data/drafts/generic")
