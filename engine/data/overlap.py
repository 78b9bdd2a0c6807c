"""Detect queries that repeat: training prompts that repeat held-out ones, or repeats within one list.

A draft that has seen a held-out query accepts more on it than it will in service. Exact repeats have the same
normalised text and tool names; characters without a width do not hide that a query is held out. Near repeats are
candidates of MinHash and locality-sensitive hashing over character 5-grams (which need no word boundaries, so Chinese
works), each verified by its exact Jaccard similarity. The hashing can therefore miss a pair (with probability below
1e-4 at the threshold) but never invent one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from engine.chat.prompt import Prompt
from engine.errors import DraftbenchError

if TYPE_CHECKING:
    from datasketch import MinHash

_SHINGLE_CHARACTERS = 5
_PERMUTATIONS = 128
_SEED = 20
_MISS_PROBABILITY = 1e-4
# Of UTF-8. "Please continue." or "Yes, the second one" asks for nothing without the conversation before it.
_FOLLOW_UP_BYTES = 24
_SIGNS = "*/#%&@\\"


class Repeat(NamedTuple):
    """`prompt_id` asks what `repeats_id` asks; `jaccard` of their 5-grams, 1.0 if exact."""

    prompt_id: str
    repeats_id: str
    kind: Literal["exact", "near"]
    jaccard: float


def remove_overlap(
    train: Sequence[Prompt], heldout: Sequence[Prompt], *, threshold: float = 0.8
) -> tuple[list[Prompt], list[Repeat]]:
    """Split training prompts into those that repeat no held-out query, and the repeats that were removed.

    "exact": a user message and the names of the tools are the same after normalisation; every user message of a
    training conversation counts, but only the last of a held-out one, its query. "near": Jaccard similarity of at least
    `threshold`, in (0, 1], whatever the tools, since a held-out query with other tools must stay unseen too.
    A short follow-up, such as "Please continue.", repeats another one only if the earlier user messages are alike
    too. `repeats_id` is the most similar held-out prompt, the first of them on a tie.
    """
    index = _QueryIndex(threshold, _visible_query, in_context=True)
    for prompt in heldout:
        index.add(prompt)
    kept: list[Prompt] = []
    removed: list[Repeat] = []
    for prompt in train:
        repeat = next((repeat for turn in _turns(prompt) if (repeat := index.find(turn))), None)
        if repeat is None:
            kept.append(prompt)
        else:
            removed.append(repeat)
    return kept, removed


def _turns(prompt: Prompt) -> Iterator[Prompt]:
    """The conversation up to each user message, the last first: a held-out query may come early in it."""
    yield prompt
    asked = [i for i, message in enumerate(prompt.messages) if message["role"] == "user"]
    for last in reversed(asked[:-1]):
        yield replace(prompt, messages=prompt.messages[: last + 1])


def duplicates_within(prompts: Sequence[Prompt], *, threshold: float = 0.8, signs: bool = False) -> list[Repeat]:
    """Return each prompt that repeats an earlier one, in order; the earlier one is never itself a repeat.

    Removing every `prompt_id` leaves a list in which nothing repeats. `signs`: 6*3 and 6/3 differ.
    """
    # Packs are built without signs: with another text they would be other packs.
    index = _QueryIndex(threshold, _query_with_signs if signs else _query)
    repeats: list[Repeat] = []
    for prompt in prompts:
        repeat = index.find(prompt)
        if repeat is None:
            index.add(prompt)
        else:
            repeats.append(repeat)
    return repeats


def repeats_in_context(prompts: Sequence[Prompt], *, threshold: float = 0.8) -> list[Repeat]:
    """As `duplicates_within`, among prompts with the same tools, earlier user messages and tools' answers.

    The same words with other tools are another task, "Please continue." asks for something else in each conversation,
    and after a tool's answer there is something else to say.
    """
    groups: dict[tuple[tuple[str, ...], ...], list[Prompt]] = {}
    for prompt in prompts:
        answers = tuple(normalise(str(m["content"])) for m in prompt.messages if m["role"] == "tool")
        groups.setdefault((_tool_names(prompt), _earlier(prompt), answers), []).append(prompt)
    return [repeat for group in groups.values() for repeat in duplicates_within(group, threshold=threshold, signs=True)]


def _earlier(prompt: Prompt) -> tuple[str, ...]:
    """The normalised user messages before the last one."""
    return tuple(normalise(str(m["content"])) for m in prompt.messages if m["role"] == "user")[:-1]


def _tool_names(prompt: Prompt) -> tuple[str, ...]:
    return tuple(sorted(tool["function"]["name"] for tool in prompt.tools))


def normalise(text: str, keep: str = "") -> str:
    """Normalise `text` for comparison: NFKC, casefold, runs of whitespace and punctuation as one space, but not `keep`.

    Text of nothing but punctuation keeps it, or all such texts would be equal.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    spaced = (" " if c not in keep and unicodedata.category(c).startswith("P") else c for c in folded)
    collapsed = " ".join("".join(spaced).split())
    return collapsed or " ".join(folded.split())


def shingles(text: str) -> frozenset[str]:
    """Character 5-grams of a normalised text; the text itself if it is shorter."""
    last_start = max(len(text) - _SHINGLE_CHARACTERS, 0)
    return frozenset(text[start : start + _SHINGLE_CHARACTERS] for start in range(last_start + 1))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Size of the intersection over size of the union. Neither set is empty."""
    return len(left & right) / len(left | right)


def _query(prompt: Prompt) -> str:
    """The text to compare: the last user message, or all of a conversation without one."""
    return normalise(prompt.text or prompt.key())


def _query_with_signs(prompt: Prompt) -> str:
    """As `_query`, with the signs of arithmetic and code that Unicode calls punctuation."""
    return normalise(prompt.text or prompt.key(), keep=_SIGNS)


def _visible_query(prompt: Prompt) -> str:
    """As `_query`, without zero-width and other format characters; all of a text that has no others."""
    text = prompt.text or prompt.key()
    return normalise("".join(c for c in text if unicodedata.category(c) != "Cf")) or normalise(text)


class _QueryIndex:
    """Prompts by their `query`, a text. They are stored by position, because ids may repeat.

    `in_context`: short follow-ups are compared with their conversations.
    """

    def __init__(self, threshold: float, query: Callable[[Prompt], str], *, in_context: bool = False) -> None:
        if not 0 < threshold <= 1:
            raise DraftbenchError(
                f"the overlap threshold is {threshold}",
                "it is a Jaccard similarity",
                "give a number above 0 and at most 1, for example 0.8",
            )
        from datasketch import MinHashLSH  # loads SciPy: only where prompts are compared

        self._threshold, self._query, self._in_context = threshold, query, in_context
        self._hashes = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands_and_rows(threshold))
        self._prompts: list[Prompt] = []
        self._shingles: list[frozenset[str]] = []
        self._with: dict[tuple[str, tuple[str, ...]], list[int]] = {}

    def add(self, prompt: Prompt) -> None:
        position = len(self._prompts)
        grams = shingles(self._query(prompt))
        self._prompts.append(prompt)
        self._shingles.append(grams)
        self._with.setdefault(self._exact_key(prompt), []).append(position)
        self._hashes.insert(position, _minhash(grams))

    def _exact_key(self, prompt: Prompt) -> tuple[str, tuple[str, ...]]:
        return self._query(prompt), _tool_names(prompt)

    def find(self, prompt: Prompt) -> Repeat | None:
        """Return how `prompt` repeats one of the prompts added so far; None if it does not."""
        same = self._with.get(self._exact_key(prompt), [])
        exact = next((position for position in same if not self._follows_another(prompt, position)), None)
        if exact is not None:
            return Repeat(prompt.id, self._prompts[exact].id, "exact", 1.0)
        grams = shingles(self._query(prompt))
        candidates = sorted(self._hashes.query(_minhash(grams)))
        similarities = [
            (jaccard(grams, self._shingles[position]), -position)
            for position in candidates
            if not self._follows_another(prompt, position)
        ]
        best, negative_position = max(similarities, default=(0.0, 0))
        if best < self._threshold:
            return None
        return Repeat(prompt.id, self._prompts[-negative_position].id, "near", best)

    def _follows_another(self, prompt: Prompt, position: int) -> bool:
        """Whether two short follow-ups belong to different conversations."""
        if not self._in_context or len(self._query(prompt).encode()) >= _FOLLOW_UP_BYTES:
            return False
        before, other = (" ".join(_earlier(each)) for each in (prompt, self._prompts[position]))
        alike = before == other or jaccard(shingles(before), shingles(other)) >= self._threshold
        return bool(before and other) and not alike


def _minhash(grams: frozenset[str]) -> MinHash:
    from datasketch import MinHash

    sketch = MinHash(num_perm=_PERMUTATIONS, seed=_SEED)
    sketch.update_batch([gram.encode("utf-8") for gram in grams])
    return sketch


def _bands_and_rows(threshold: float) -> tuple[int, int]:
    """The most selective banding that misses a pair at the threshold with probability below 1e-4.

    A pair of similarity s shares none of b bands of r rows with probability (1 - s^r)^b.
    Candidates are verified, so a false one costs time only.
    """
    for rows in (64, 32, 16, 8, 4, 2):
        bands = _PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands < _MISS_PROBABILITY:
            return bands, rows
    return _PERMUTATIONS, 1
