"""What `draftbench tune` says in a terminal."""

from __future__ import annotations

from typing import Any

from engine.cli.text import console

_RATES = (
    ("valid", "valid calls"),
    ("fits_schema", "valid, arguments fit the schema"),
    ("names_match", "the reference's functions"),
    ("arguments_match", "the reference's arguments"),
)


def target(told: dict[str, Any]) -> None:
    """Where the target lies, how it was trained, and its figures before and after."""
    if "folder" in told:
        console.line(f"target in {told['folder']}")
    if "training" in told:
        console.line(_training(told["training"]))
    before, after = told["figures"]["before"], told["figures"]["after"]
    console.table("held-out figures, [95% interval over prompts]", ("", "before", "after", "n"), _rows(before, after))
    if "difference" in told["figures"]:  # targets made by earlier versions tell none
        title = "after - before on the same records, [95% interval over prompts, paired]"
        console.table(title, ("", "difference", "n"), _differences(told["figures"]["difference"]))
    if "function_calls" in after:
        _invalid(before["function_calls"], after["function_calls"])


def _training(trained: dict[str, Any]) -> str:
    return (
        f"{trained['steps_done']} of {trained['steps']} steps, {trained['tokens_seen']:,} tokens "
        f"({trained['reference_tokens_seen']:,} of references) in {trained['seconds']:,.0f} s"
    )


def _rows(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    told = after["perplexity"]
    pair = [console.interval(side["perplexity"], 2) for side in (before, after)]
    rows = [("perplexity of a reference token", *pair, f"{told['n_prompts']} prompts, {told['n_tokens']:,} tokens")]
    if "function_calls" in after:
        sides = (before["function_calls"], after["function_calls"])
        for key, name in _RATES:
            cells = [console.interval(side[key]) for side in sides]
            rows.append((name, *cells, f"{sides[1][key]['n_prompts']} prompts"))
    return [(name, old, new, n) for name, old, new, n in rows]


def _differences(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    told = [("mean log-probability of a reference token, nats", found["logprob_per_token"])]
    told += [(name, found["function_calls"][key]) for key, name in _RATES if "function_calls" in found]
    return [(name, console.interval(numbers), f"{numbers['n_prompts']} prompts") for name, numbers in told]


def _invalid(before: dict[str, Any], after: dict[str, Any]) -> None:
    old, new = before["invalid_because"], after["invalid_because"]
    reasons = sorted(old.keys() | new.keys(), key=lambda reason: -old.get(reason, 0) - new.get(reason, 0))
    if reasons:
        console.table(
            "answers that were no valid call, by reason",
            ("", "before", "after"),
            [(reason, old.get(reason, 0), new.get(reason, 0)) for reason in reasons],
        )
