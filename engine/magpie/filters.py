"""Filter the queries that a target wrote, and count the reasons for dropping one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.chat.prompt import Prompt, Tool
from engine.data.overlap import duplicates_within, remove_overlap
from engine.magpie.recipe import FilterSpec

_GRAM_CHARACTERS = 8  # longer than a common word ending, shorter than the shortest phrase worth repeating

_CALL = re.compile(r'\[?\s*\{\s*"')  # a JSON object or a list of them; a user begins with words


@dataclass(frozen=True)
class WrittenQuery:
    """A raw query: its number, its stripped text, and whether the target ended its turn."""

    number: int
    text: str
    finished: bool
    tools: tuple[Tool, ...] = ()
    group: str = ""


@dataclass
class Removed:
    """The number of queries that a filter dropped, and the first of them."""

    meaning: str
    count: int = 0
    example: str = ""


@dataclass(frozen=True)
class Filtered:
    """The prompts that were kept, and what each filter removed, in the order of the filters."""

    kept: list[Prompt]
    removed: dict[str, Removed] = field(default_factory=dict)


Check = Callable[[WrittenQuery, FilterSpec, frozenset[str]], bool]

# A query is dropped by the first check that is true for it.
CHECKS: dict[str, tuple[str, Check]] = {
    "empty": ("the target wrote nothing", lambda query, rules, marks: not query.text),
    "template_tokens": (
        "contains tokens of the chat template",
        lambda query, rules, marks: any(mark in query.text for mark in marks),
    ),
    "broken_characters": ("contains broken characters", lambda query, rules, marks: "\ufffd" in query.text),
    "call_not_query": (
        "begins with a function call: the target wrote as the assistant",
        lambda query, rules, marks: _CALL.match(query.text) is not None,
    ),
    "unfinished": ("no end of turn within max_new_tokens", lambda query, rules, marks: not query.finished),
    "too_short": ("under min_characters", lambda query, rules, marks: len(query.text) < rules.min_characters),
    "too_long": ("over max_characters", lambda query, rules, marks: len(query.text) > rules.max_characters),
    "ends_with_colon": (
        "ends with a colon and nothing after it",
        lambda query, rules, marks: query.text.endswith((":", "：")),
    ),
    "wrong_script": ("not in the wanted script", lambda query, rules, marks: _wrong_script(query.text, rules)),
    "repeats_itself": (
        "repeats the same text",
        lambda query, rules, marks: distinct_share(query.text) < rules.distinct_share,
    ),
}
SET_CHECKS = {
    "exact_duplicate": "the same as an earlier query",
    "near_duplicate": "almost the same as an earlier query",
    "heldout_overlap": "the same or almost the same as a held-out query",
}


def apply_filters(
    queries: Sequence[WrittenQuery], rules: FilterSpec, marks: frozenset[str], heldout: Sequence[Prompt], domain: str
) -> Filtered:
    """Return prompts of the queries that pass every filter, in order, with ids `magpie-<domain>-<number>`.

    `marks` are the texts of `template_marks`. Every query is kept or counted for one filter.
    """
    meanings = {name: meaning for name, (meaning, _) in CHECKS.items()} | SET_CHECKS
    removed = {name: Removed(meaning) for name, meaning in meanings.items()}

    def drop(name: str, text: str) -> None:
        removed[name].count += 1
        removed[name].example = removed[name].example or text

    passed: list[Prompt] = []
    for query in queries:
        reason = next((name for name, (_, check) in CHECKS.items() if check(query, rules, marks)), None)
        if reason is None:
            message = {"role": "user", "content": query.text}
            passed.append(Prompt(f"magpie-{domain}-{query.number:05d}", (message,), query.tools, query.group))
        else:
            drop(reason, query.text)
    texts = {prompt.id: prompt.text for prompt in passed}
    repeats = duplicates_within(passed, threshold=rules.near_duplicate)
    for repeat in repeats:
        drop(f"{repeat.kind}_duplicate", texts[repeat.prompt_id])
    repeated = {repeat.prompt_id for repeat in repeats}
    unique = [prompt for prompt in passed if prompt.id not in repeated]
    kept, seen = remove_overlap(unique, heldout, threshold=rules.near_duplicate)
    for repeat in seen:
        drop("heldout_overlap", texts[repeat.prompt_id])
    return Filtered(kept, removed)


def distinct_share(text: str) -> float:
    """The share of distinct 8-grams among all character 8-grams of a text: 1 for prose, towards 0 for a loop."""
    grams = [text[start : start + _GRAM_CHARACTERS] for start in range(max(len(text) - _GRAM_CHARACTERS, 0) + 1)]
    return len(set(grams)) / len(grams)


_SENTENCE_END = re.compile(r"[。！？]+[”’」』）]*|[.!?]+[\"')]*(?=\s|$)|\n")


def first_sentence(text: str) -> tuple[str, bool]:
    """Cut `text` after its first sentence or line; also whether it has such an end."""
    end = _SENTENCE_END.search(text)
    return (text[: end.end()].strip(), True) if end else (text, False)


_SCRIPT_NAMES = {"han": "CJK "}  # prefix of Unicode's names of letters; that of other scripts is the script's name


def script_share(text: str, script: str) -> float:
    """The share of a text's letters that belong to a script; 0 for a text without letters."""
    prefix = _SCRIPT_NAMES.get(script, script.upper() + " ")
    letters = [character for character in text if character.isalpha()]
    return sum(unicodedata.name(letter, "").startswith(prefix) for letter in letters) / max(len(letters), 1)


def _wrong_script(text: str, rules: FilterSpec) -> bool:
    return rules.script != "any" and script_share(text, rules.script) < rules.script_share
