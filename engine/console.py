"""How results look in a terminal: tables, coloured tokens, errors. JSON where it is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from engine.decode.events import EMITTED, MARKS, Fate, Round
from engine.decode.text import TextStream
from engine.errors import DraftbenchError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_LABELS = {
    "exact": "exact: mean of sum min(p,q)",
    "greedy_agreement": "greedy_agreement: argmax p = argmax q",
    "per_proposed": "per_proposed: accepted / proposed",
    "per_examined": "per_examined: accepted / judged",
    "per_emitted": "per_emitted: accepted / emitted",
    "tau": "tau: tokens a target forward",
}


def print_json(value: Any) -> None:
    """One JSON document on standard output; numbers that are not numbers become null."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False, default=str))


def _plain(value: Any) -> Any:
    """The value with nan and infinities as None, which JSON has no words for."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def print_error(error: DraftbenchError) -> None:
    """What, why and fix on standard error, a line each."""
    err.print(f"[bold red]error:[/] {escape(error.what)}")
    for name, text in (("why", error.why), ("fix", error.fix)):
        if text:
            err.print(f"  [bold]{name}:[/] {escape(text)}")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A plain table; numbers to the right."""
    made = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    listed = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(listed) and all(
            isinstance(row[index], (int, float)) or row[index] in ("", "-") for row in listed
        )
        made.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        made.add_row(*(escape(str(cell)) for cell in row))
    out.print(made)


def interval(numbers: dict[str, Any], digits: int = 3) -> str:
    """'0.412 [0.390, 0.433]', or the value alone where no interval could be made."""
    value, low, high = (numbers.get(key) for key in ("value", "low", "high"))
    if value is None or value != value:
        return "-"
    if low is None or low != low:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def print_summary(run_id: str, summary: dict[str, Any]) -> None:
    """The table a run ends with: acceptance before and after, speed, certificate."""
    conditions = summary["conditions"]
    found = {(m["draft"], m["temperature"], m["metric"]): m for m in summary["metrics"]}
    gain = {i["temperature"]: i for i in summary["improvement"]}
    rows = []
    for (draft, temperature, metric), m in found.items():
        if draft == "trained":
            before = found.get(("initial", temperature, metric))
            change = interval(gain[temperature]) if metric == "exact" else ""
            rows.append([f"{temperature:g}", _LABELS[metric], interval(before) if before else "", interval(m), change])
    table(
        f"{run_id}: held-out, {conditions['heldout_prompts']} prompts, gamma {conditions['num_draft_tokens']}, "
        f"{conditions['dtype']} on {conditions['device']}; 95% intervals over prompts",
        ["T", "rate", "before", "trained", "paired change"],
        rows,
    )
    if "speed" in summary:
        _print_speed(summary["speed"])
    certificate = summary["certificate"]
    out.print(f"\ncertificate: {'[bold green]passed[/]' if certificate['passed'] else '[bold red]FAILED[/]'}")
    for check in certificate["checks"]:
        mark = {True: "[green]ok  [/]", False: "[red]FAIL[/]", None: "note"}[check["passed"]]
        out.print(f"  {mark} {escape(check['detail'])}")


def _print_speed(speed: dict[str, Any]) -> None:
    rates, split, predicted = speed["tokens_per_s"], speed["time_split"], speed["predicted_speedup"]
    out.print(
        f"\nspeed at T={speed['temperature']:g}, batch 1, {speed['threads']} threads: "
        f"plain {rates['plain']['value']:.1f} tokens/s, speculative {rates['speculative']['value']:.1f} tokens/s, "
        f"speed-up {interval(speed['speedup'], 2)}"
    )
    out.print(
        f"  c = {speed['cost_ratio']:.3f}; time: draft {split['draft']:.0%}, verify {split['verify']:.0%}, "
        f"overhead {split['overhead']:.0%}; predicted {predicted['formula']:.2f}x by the formula, "
        f"{predicted['measured_times']:.2f}x with measured times"
    )
    pays = speed["break_even_alpha"]["some_gamma"]
    out.print(
        f"  speculation pays from an acceptance of {pays:.3f} on; best gamma by the formula: {speed['best_gamma']}"
    )


def coloured(rounds: Iterable[Round], tokenizer: Any, *, refused: bool) -> Iterable[Text]:
    """Readable text of each round as it comes, styled by fate; refused tokens only if asked for."""
    stream = TextStream(tokenizer)
    for r in rounds:
        line = Text()
        accepted = [t for t in r.tokens if t.fate is Fate.ACCEPTED]
        for token in accepted:
            line.append(stream.emit(token.token_id), style=MARKS[token.fate].terminal)
        ghosts = [t for t in r.tokens if t.fate not in EMITTED]
        if refused:
            for token, piece in zip(ghosts, stream.peek([t.token_id for t in ghosts]), strict=True):
                line.append(piece, style=MARKS[token.fate].terminal)
        for token in r.tokens:
            if token.fate in EMITTED and token.fate is not Fate.ACCEPTED:
                line.append(stream.emit(token.token_id), style=MARKS[token.fate].terminal)
        yield line


def legend() -> Text:
    """The fates and how each is marked."""
    line = Text()
    for fate, mark in MARKS.items():
        line.append(f" {fate} ", style=mark.terminal)
        line.append(f" {mark.meaning}   ")
    return line


def flush() -> None:
    """Everything printed so far reaches the reader, also through a pipe."""
    sys.stdout.flush()
