"""Whether drafts that were trained alike saw the same text: versions of this program may train on other amounts."""

from __future__ import annotations

from collections.abc import Mapping

from engine.records.provenance import Provenance
from engine.records.training import Training


def unequal_text(sides: Mapping[str, tuple[Provenance, Training]]) -> list[str]:
    """A sentence for every two drafts of the same training prompts and as many steps, but of other amounts of text.

    `sides`: name -> where the draft comes from, and what its training came to.
    """
    names = list(sides)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    return [sentence for a, b in pairs if (sentence := _sentence(a, b, sides))]


def _sentence(a: str, b: str, sides: Mapping[str, tuple[Provenance, Training]]) -> str:
    (first, one), (second, other) = sides[a], sides[b]
    alike = first.prompts.train_hash == second.prompts.train_hash and one.steps_done == other.steps_done
    if first.prompts.train_hash is None or not alike or one.tokens_seen == other.tokens_seen:
        return ""
    if one.tokens_seen is None or other.tokens_seen is None:
        return ""
    commits = [(side.source.commit or "")[:7] for side in (first, second)]
    versions = f"; different versions of the code trained them ({' and '.join(commits)})"
    return (
        f"{a} and {b} were not trained on the same text: {one.tokens_seen:,} and {other.tokens_seen:,} tokens in "
        f"{one.steps_done} steps on the same prompts{versions if all(commits) and commits[0] != commits[1] else ''}"
    )
