"""Copy the cards of engine/catalogue.py into docs/training-modes.md, so that each mode has one explanation.

    python docs/cards.py

A card goes between `<!-- card: NAME -->` and `<!-- end of card -->`. A test fails if the page and the catalogue differ.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from engine.catalogue import LORA, MODES, SELECTION, Card

PAGE = Path(__file__).with_name("training-modes.md")
CARDS: dict[str, Card] = {
    card.name: card
    for card in (*MODES.values(), *(v for mode in MODES.values() for v in mode.variants), SELECTION, LORA)
}
_WIDTH = 120
_BLOCK = re.compile(r"<!-- card: (?P<name>.+?) -->\n.*?<!-- end of card -->", re.DOTALL)


def card_text(card: Card) -> str:
    """A card as Markdown: text, formula, remark, source."""
    paragraphs = [textwrap.fill(text, _WIDTH, break_on_hyphens=False) for text in (card.text, card.remark) if text]
    if card.formula:
        paragraphs.insert(1, f"```math\n{card.formula}\n```")
    return "\n\n".join([*paragraphs, *([f"Source: {card.source}."] if card.source else [])])


def with_cards(page: str) -> str:
    """The page with every card as the catalogue has it. Raises KeyError for a card that is not in the catalogue."""
    return _BLOCK.sub(
        lambda match: f"<!-- card: {match['name']} -->\n\n{card_text(CARDS[match['name']])}\n\n<!-- end of card -->",
        page,
    )


if __name__ == "__main__":
    PAGE.write_text(with_cards(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
