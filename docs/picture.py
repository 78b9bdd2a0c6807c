"""Draw docs/decode.svg for README: one answer with the fate of each token.

    python docs/picture.py

Uses the generic draft that comes with Draftbench; takes half a minute on two cores.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from engine.cli.text.console import coloured, legend
from engine.config.defaults import DECODE
from engine.decode.one_prompt import decode_prompt, question
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.paths import home
from engine.runs.pair import load_pair

PROMPT = "Why do leaves turn red in autumn?"


def main(draft: str) -> None:
    """Decode PROMPT with a draft of the embedded target and save the terminal's output as SVG."""
    pair = load_pair(home(), run_id=None, draft=draft)
    length = FixedLength(DECODE.num_draft_tokens)  # what the command does that the picture shows
    settings = DecodeSettings(Sampling(DECODE.temperature), length, DECODE.max_new_tokens, pair.target.stop_ids)
    decoding = decode_prompt(pair.target, pair.draft, question(PROMPT), settings)
    canvas = Console(record=True, width=104, file=io.StringIO(), highlight=False)
    canvas.print(f'$ draftbench decode --draft {draft} --prompt "{PROMPT}"\n', style="bold")
    answer = Text()
    for piece in coloured(decoding.rounds(), pair.target.tokenizer, refused=True):
        answer.append_text(piece)
    canvas.print(answer, "\n")
    canvas.print(legend())
    speed = re.compile(r" in \S+ s = \S+ tokens/s")  # of one answer, at the hour when the picture was drawn
    canvas.print(f"\n{speed.sub('', decoding.figures())}")
    out = Path(__file__).with_name("decode.svg")
    canvas.save_svg(str(out), title="draftbench decode")
    print(out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sample_data/drafts/generic")
