"""The result of `draftbench tune` as text."""

from __future__ import annotations

from typing import Any

from engine.cli.text import console
from engine.records.interval import Interval

_RATES = (
    ("valid", "valid calls"),
    ("fits_schema", "valid, arguments fit the schema"),
    ("names_match", "same functions as the reference"),
    ("arguments_match", "same arguments as the reference"),
)


def target(report: dict[str, Any]) -> None:
    """Print where the target was written, how it was trained, and its figures before and after."""
    if "folder" in report:
        console.line(f"target in {report['folder']}")
    if "training" in report:
        trained = report["training"]
        console.line(
            f"{trained['steps_done']} of {trained['steps']} steps, {trained['tokens_seen']:,} tokens "
            f"({trained['reference_tokens_seen']:,} of them in references) in {trained['seconds']:,.0f} s"
        )
    data = report["data"]
    for side, name in (("train", "training"), ("heldout", "held-out")):
        if side in data:
            removed = data.get("overlap_removed", 0) if side == "train" else 0
            console.paragraph(f"{name}: {_records(data[side], removed)}")
    before, after = report["figures"]["before"], report["figures"]["after"]
    console.table("held-out figures, [95% interval over prompts]", ("", "before", "after", "n"), _rows(before, after))
    if "difference" in report["figures"]:  # targets made by earlier versions have none
        title = "after - before on the same records, [95% interval over prompts, paired]"
        console.table(title, ("", "difference", "n"), _differences(report["figures"]["difference"]))
    if "function_calls" in after:
        _invalid(before["function_calls"], after["function_calls"])


def _records(counts: dict[str, Any], repeats: int) -> str:
    """How many records were used, what was left out, and of how many references a part was."""
    left_out = {
        "repeats of a held-out query": repeats,
        "without a whole reference": counts.get("without_reference", 0),
        "too long a prompt": counts.get("prompt_too_long", 0),
    }
    partly = {
        "references cut at data.max_reference_tokens": counts.get("reference_cut", 0),
        "references cut at their end of turn": counts.get("reference_past_its_end", 0),
    }
    words = [f"{counts['records']:,} records", *(f"{what} ({count:,})" for what, count in partly.items() if count)]
    out = ", ".join(f"{what} ({count:,})" for what, count in left_out.items() if count)
    return ", ".join(words) + (f"; left out: {out}" if out else "")


def _rows(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    size = after["perplexity"]
    cells = [console.interval(Interval.of(side["perplexity"]), 2) for side in (before, after)]
    rows = [("perplexity per reference token", *cells, f"{size['n_prompts']} prompts, {size['n_tokens']:,} tokens")]
    if "function_calls" in after:
        sides = (before["function_calls"], after["function_calls"])
        for key, name in _RATES:
            cells = [console.interval(Interval.of(side[key])) for side in sides]
            rows.append((name, *cells, f"{sides[1][key]['n_prompts']} prompts"))
    return [(name, old, new, n) for name, old, new, n in rows]


def _differences(differences: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = [("mean log-probability per reference token, nats", differences["logprob_per_token"])]
    rows += [(name, differences["function_calls"][key]) for key, name in _RATES if "function_calls" in differences]
    return [(name, console.interval(Interval.of(numbers)), f"{numbers['n_prompts']} prompts") for name, numbers in rows]


def _invalid(before: dict[str, Any], after: dict[str, Any]) -> None:
    old, new = before["invalid_because"], after["invalid_because"]
    reasons = sorted(old.keys() | new.keys(), key=lambda reason: -old.get(reason, 0) - new.get(reason, 0))
    if reasons:
        console.table(
            "answers without a valid call, by reason",
            ("", "before", "after"),
            [(reason, old.get(reason, 0), new.get(reason, 0)) for reason in reasons],
        )
