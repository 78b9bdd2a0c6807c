"""What a command found, as text for a terminal of 80 columns. `--json` prints the same values whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.text import Text

from engine.cli.text import console
from engine.config.schema import Recipe
from engine.data.columns import remarks
from engine.errors import first_line
from engine.measure import speed_words
from engine.numbers import number

_MEANINGS = (
    "exact: mean of sum min(p, q) over the target's own text; greedy_agreement: the target's choice = argmax q; "
    "per_proposed, per_examined, per_emitted: accepted over proposed, judged, emitted tokens; "
    "tau: tokens a target forward; [low, high]: 95% over prompts"
)
_SERVED_MEANINGS = (
    "exact: mean of min(1, q(x)/p(x)) over the tokens x that the server drew, an estimate of the mean of sum min(p, q) "
    "by one token a position; greedy_agreement: argmax q is what it wrote at T = 0; [low, high]: 95% over prompts"
)


def summary(run_id: str, found: dict[str, Any], provenance: Mapping[str, Any] | None = None) -> None:
    """The table a run ends with: acceptance before and after, speed and where it was measured, certificate."""
    conditions, served = found["conditions"], found.get("served")
    gamma = "" if served else f"gamma {conditions['num_draft_tokens']}, "
    console.line(
        f"{run_id}\nheld-out: {conditions['heldout_prompts']} prompts, {gamma}"
        f"{conditions['dtype']} on {conditions['device']}"
    )
    if served:
        console.paragraph(f"against the text of the served model {conditions['served_by']}")
    console.table("", ["", "before", "trained", "paired change"], _acceptance_rows(found))
    console.paragraph(_SERVED_MEANINGS if served else _MEANINGS)
    if "speed" in found:
        _speed(found["speed"], speed_words.measured_where(found, provenance))
    if served:
        _served(served)
    else:
        _certificate(found["certificate"])


def _served(served: dict[str, Any]) -> None:
    """How much of the server's text the figures are of, and what they cannot say."""
    console.line("")
    for at in served["positions"]:
        told = at["calibration"]
        fits = f"; its text fits what it tells (z = {told['z']:+.1f})" if told else ""
        out = f"{at['left_out']:,} left out, not certain which token it was or how likely" if at["left_out"] else "all"
        console.paragraph(
            f"T = {at['temperature']:g}: {at['used']:,} tokens of {at['prompts']} of {at['asked']} answers ({out}){fits}"
        )
    console.paragraph(
        "no sampled rates, tau, speed or certificate: they need the target itself to run here "
        "(`draftbench measure RUN --set measure.against=model` takes the model at hand)"
    )


def _acceptance_rows(found: dict[str, Any]) -> list[list[str]]:
    """A line a temperature, and under it a line a rate."""
    metrics = {(m["draft"], m["temperature"], m["metric"]): m for m in found["metrics"]}
    gain = {(i["temperature"], i["metric"]): i for i in found["improvement"]}
    rows: list[list[str]] = []
    temperature = None
    for (draft, at, metric), measured in metrics.items():
        if draft != "trained":
            continue
        if at != temperature:
            temperature = at
            rows.append([f"T = {at:g}", "", "", ""])
        others = [metrics.get(("initial", at, metric)), measured, gain.get((at, metric))]
        rows.append([metric, *(console.rate(numbers) if numbers else "" for numbers in others)])
    return rows


def _speed(speed: dict[str, Any], where: str) -> None:
    rates, split, predicted = speed["tokens_per_s"], speed["time_split"], speed["predicted_speedup"]
    console.line("")
    console.paragraph(
        f"speed at T={speed['temperature']:g}, batch 1, {speed['threads']} threads: "
        f"plain {number(rates['plain']['value'], 1)} tokens/s, "
        f"speculative {number(rates['speculative']['value'], 1)} tokens/s, "
        f"speed-up {console.interval(speed['speedup'], 2)}"
    )
    if "speedup_over_transformers" in speed:  # earlier measurements have none
        console.paragraph(
            f"Transformers' plain generate {number(rates['transformers']['value'], 1)} tokens/s, "
            f"speed-up over it {console.interval(speed['speedup_over_transformers'], 2)}",
            indent=2,
        )
    console.paragraph(
        f"c = {number(speed['cost_ratio'])}; time: draft {split['draft']:.0%}, verify {split['verify']:.0%}, "
        f"overhead {split['overhead']:.0%}; predicted {number(predicted['formula'], 2)}x by the formula, "
        f"{number(predicted['measured_times'], 2)}x with measured times",
        indent=2,
    )
    console.paragraph(speed_words.told(speed) + (f"; measured on {where}" if where else ""), indent=2)
    console.paragraph(_break_even(speed), indent=2)


def _break_even(speed: dict[str, Any]) -> str:
    """What acceptance would pay. JSON has no infinity: None, too, says that none would."""
    pays = speed["break_even_alpha"]["some_gamma"]
    if pays is None or not pays < 1:
        return "no acceptance would pay: at this c a draft forward costs as much as a target forward"
    return f"speculation pays from an acceptance of {pays:.3f} on; best gamma by the formula: {speed['best_gamma']}"


def _certificate(certificate: dict[str, Any]) -> None:
    verdict = Text("passed", style="bold green") if certificate["passed"] else Text("FAILED", style="bold red")
    console.out.print("\ncertificate:", verdict)
    marks = {True: Text("ok", style="green"), False: Text("FAIL", style="red"), None: Text("note")}
    console.table("", ["", ""], [[marks[check["passed"]], check["detail"]] for check in certificate["checks"]])


def run(told: dict[str, Any]) -> None:
    """One run: state, recipe, origin, and its measurement if it has one."""
    status = told["status"]
    recipe = None if told["recipe"] is None else Recipe.model_validate(told["recipe"])
    where = f"{status['state']}, phase {status['phase']}" if status["state"] == "running" else status["state"]
    console.line(f"{told['run']}: {where}")
    for key, value in (status.get("error") or {}).items():
        console.line(f"  {key}: {value}")
    rows = [("folder", told["folder"])]
    if recipe is not None:
        rows += [
            ("target", recipe.target.label),
            ("prompts", f"{recipe.prompts.domain}, {recipe.prompts.scenario}"),
            ("loss", " + ".join(term.name for term in recipe.train.loss)),
        ]
    rows += [
        ("trained", _or_why(lambda: _training(told["training"]))),
        ("origin", _or_why(lambda: _origin(told["provenance"] or {}))),
    ]
    for name, text in rows:
        console.line(f"  {name:<8} {text}")
    if told["problem"]:
        console.line(f"  problem  {told['problem']}")
    if told["summary"]:
        console.line("")
        try:
            summary(told["run"], told["summary"], told["provenance"])
        except Exception as error:  # somebody else may have written it
            console.line(f"  problem  the measurement cannot be shown: {type(error).__name__}: {first_line(error)}")


def _or_why(tell: Callable[[], str]) -> str:
    """What a file of the run says; why not, where it is not as we write it."""
    try:
        return tell()
    except Exception as error:
        return f"cannot be shown ({type(error).__name__}: {first_line(error)})"


def _training(training: dict[str, Any] | None) -> str:
    if training is None:
        return "not yet"
    return f"{training['steps_done']} of {training['steps']} steps, best at step {training['best_step']}"


def _origin(provenance: dict[str, Any]) -> str:
    versions, source = provenance.get("versions", {}), provenance.get("source", {})
    commit = f"commit {source['commit'][:12]}" + (" with changes" if source.get("changed") else "") if source else ""
    named = [f"{name} {versions[name]}" for name in ("draftbench", "torch", "transformers") if name in versions]
    return ", ".join(filter(None, [*named, commit])) or "not known"


def runs(rows: Sequence[dict[str, Any]]) -> None:
    """A line a run, newest first."""
    columns = ["run", "state", "domain", "loss", "exact"]
    console.table("", columns, [[row[c] for c in columns[:-1]] + [row["exact"].replace(", ", "\n")] for row in rows])
    for row in rows:
        if row["problem"]:
            console.paragraph(f"{row['run']}: {row['problem']}")


def comparison(found: dict[str, Any]) -> None:
    """B less A; a rate that may not be compared shows no difference, and why stands below."""
    console.line(
        f"A = {found['a']}\nB = {found['b']}\nB - A with 95% intervals over prompts, paired on the same target text"
    )
    rows = []
    for r in found["rows"]:
        change = console.interval(r["difference"]) if r["comparable"] else "not comparable"
        rows.append([f"{r['temperature']:g}", r["metric"], number(r["a"]), number(r["b"]), change])
    console.table("", ["T", "rate", "A", "B", "B - A"], rows)
    if not all(r["comparable"] for r in found["rows"]):
        odd = "; ".join(f"{key} is {x} in A and {y} in B" for key, (x, y) in found["differs"].items())
        console.paragraph(f"not comparable: {odd}. `draftbench measure RUN --set measure.KEY=VALUE` makes them equal.")
    for row in found["greedy_agreement"]:
        console.paragraph(
            f"T={row['temperature']:g} greedy agreement by token: both {row['both']}, only A {row['only_a']}, "
            f"only B {row['only_b']}, neither {row['neither']} (McNemar p = {row['p_value']:.2g}, "
            "tokens taken as independent)"
        )


def captures(rows: Sequence[dict[str, Any]]) -> None:
    """The captures of a recipe and what they hold."""
    columns = ["what", "address", "prompts", "tokens", "signal_mb"]
    cells = [[r["what"], r["address"], r["prompts"], r["tokens"], round(r["signal_bytes"] / 1e6, 1)] for r in rows]
    console.table("", columns, cells)


def prompts(report: dict[str, Any]) -> None:
    """What a check of prompt files found."""
    counted = ("prompts", "with_tools", "repeated", "too_long")
    console.table("", ["what", "number"], [[name, report[name]] for name in counted])
    tokens = report["tokens"]
    console.line(f"tokens a prompt: least {tokens['least']}, median {tokens['median']}, most {tokens['most']}")
    console.paragraph("groups: " + ", ".join(f"{name} {n}" for name, n in report["groups"].items()))
    for source in report["sources"]:
        for remark in remarks(source):
            console.paragraph(f"{source['path']}: {remark}")
    for bad in report["bad_rows"]:
        console.line(f"bad: {bad['file']}:{bad['line']}: {bad['reason']}")


def exported(report: dict[str, Any]) -> None:
    """Where an export lies and whether it measures what the run measured."""
    console.line(f"wrote {report['folder']} ({report['megabytes']:.0f} MB, {report['dtype']})")
    for note in report.get("notes", []):
        console.paragraph(f"note: {note}", indent=2)
    if report["checked"]:
        console.paragraph(f"checked on {report['checked_on']}:", indent=2)
    for row in report["checked"]:
        console.line(
            f"  T={row['temperature']:g}: exact {row['exported']:.4f} from the folder, {row['draft']:.4f} from the run's "
            f"draft on the same {row['n_tokens']:,} tokens of {row['n_prompts']} prompts, both in float32"
        )
    if report["checked"]:
        console.line(f"  generate(assistant_model=...) wrote our greedy text in {report['same_greedy_text']} prompts")
        console.line("  check passed" if report["ok"] else "  CHECK FAILED: do not serve this folder")


def indexed(told: dict[str, Any]) -> None:
    """What an update of the index did."""
    counts = f"{len(told['written'])} written, {told['unchanged']} unchanged, {len(told['removed'])} removed"
    console.line(f"{told['index']}: {counts}")
    for name, reason in told["damaged"].items():
        console.line(f"damaged: {name}: {reason}")
    for name, reason in told["failed"].items():
        console.line(f"not indexed: {name}: {reason}")


def health(checks: Sequence[dict[str, Any]]) -> None:
    """A line a check, and what to type for those that failed."""
    rows = [["ok" if c["ok"] else "FIX", c["name"], c["found"]] for c in checks]
    console.table("", ["", "what", "found"], rows)
    for check in checks:
        if not check["ok"]:
            console.line(f"fix {check['name']}: {check['fix']}")
