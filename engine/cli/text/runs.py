"""A run, comparisons, captures and exports as text. `--json` prints the same values in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.cli.text import console
from engine.cli.text.summary import servers, summary
from engine.measure.interval_words import stated
from engine.numbers import MISSING, number
from engine.paths import home
from engine.records.interval import Interval
from engine.records.provenance import Provenance
from engine.records.training import Training
from engine.runs.advice import measures_again
from engine.runs.description import Description, whereabouts
from engine.runs.folder import RunFolder

_ROUNDED = 1e-4  # what is allowed of an export whose weights are not rounded


def run(description: Description) -> None:
    """Print one run: state, recipe, origin, and its measurement if there is one."""
    status, recipe = description.status, description.recipe
    console.line(
        f"{description.run}: {status.state}" + (f", phase {status.phase}" if status.state == "running" else "")
    )
    if status.error:
        for key in ("what", "why", "fix"):
            if text := getattr(status.error, key):
                console.line(f"  {key}: {text}")
    rows = [("folder", description.folder)]
    if where := whereabouts(status, description.slurm):
        rows += [("place", where)]
    if recipe is not None:
        rows += [
            ("target", recipe.target_label),
            ("prompts", f"{recipe.prompts.domain}, {recipe.prompts.scenario}"),
        ]
        if recipe.trains:
            rows += [("loss", " + ".join(term.name for term in recipe.train.loss))]
    rows += [
        (
            "trained",
            _training(description.training) if recipe is None or recipe.trains else "nothing: it only measures",
        ),
        ("draft", _draft(description.provenance or Provenance())),
        ("origin", _origin(description.provenance or Provenance())),
    ]
    for name, text in rows:
        console.line(f"  {name:<8} {text}")
    if description.problem:
        console.line(f"  problem  {description.problem}")
    if description.summary:
        console.line("")
        summary(description.run, description.summary, description.provenance or Provenance())


def _training(training: Training | None) -> str:
    if training is None:
        return "not yet"
    shared = {count: steps for count, steps in training.steps_by_processes.items() if count > 1}
    together = "".join(f", {steps} of them on {count} processes" for count, steps in sorted(shared.items()))
    return f"{training.steps_done} of {training.steps} steps, best at step {training.best_step}{together}"


def _draft(provenance: Provenance) -> str:
    parameters = provenance.draft_parameters
    if parameters is None or parameters.total is None:
        return "unknown"
    trained = "" if parameters.trained is None else f", {parameters.trained:,} of them trained"
    return f"{parameters.total:,} parameters{trained}"


def _origin(provenance: Provenance) -> str:
    versions, source = provenance.versions, provenance.source
    commit = f"commit {source.commit[:12]}" + (" with changes" if source.changed else "") if source.commit else ""
    packages = [f"{name} {versions[name]}" for name in ("draftbench", "torch", "transformers") if name in versions]
    return ", ".join(filter(None, [*packages, commit])) or "unknown"


def comparison(compared: dict[str, Any]) -> None:
    """Print B minus A; a rate that cannot be compared shows no difference, with the reason below the table."""
    console.line(f"A = {compared['a']}\nB = {compared['b']}")
    console.paragraph(
        "B - A with 95% intervals over prompts, in pairs: exact, argmax and greedy_agreement on the same target text, "
        "the other rates on what each draft's decoding wrote for the same prompts; n: the prompts that were paired, "
        "and A and B are the rates on these alone"
    )
    rows = []
    for r in compared["rows"]:
        change = stated(Interval.of(r["difference"])) if r["comparable"] else "not comparable"
        n = r["difference"]["n_prompts"]
        rows.append([f"{r['temperature']:g}", r["metric"], number(r["a"]), number(r["b"]), change, n])
    console.table("", ["T", "rate", "A", "B", "B - A", "n"], rows)
    for side, missing in compared["not_measured"].items():
        if missing:
            again = measures_again(RunFolder(home().run(compared[side.lower()])))
            console.paragraph(f"{side} was measured by an earlier version, without {', '.join(missing)}; {again}")
    servers()
    word, rates = compared["comparability"]["comparable"], compared["comparability"]["rates"]
    if word != "comparable":
        from engine.measure.compare import remedy  # with pandas, which the other texts here need not load

        differences = "; ".join(f"{key} is {x} in A and {y} in B" for key, (x, y) in compared["differs"].items())
        which = f"{', '.join(rates)} may be compared, the others not, as " if rates else ""
        console.paragraph(f"{word}: {which}{differences}. {remedy(compared['differs'])}")
    for sentence in compared["unequal_training"]:
        console.paragraph(f"{sentence}.")
    _sizes(compared["sizes"])
    for row in compared["greedy_agreement"]:
        console.paragraph(
            f"T={row['temperature']:g} greedy agreement by token: both {row['both']}, only A {row['only_a']}, "
            f"only B {row['only_b']}, neither {row['neither']} (McNemar p = {row['p_value']:.2g}, "
            "treating tokens as independent)"
        )


def _sizes(sizes: dict[str, Any]) -> None:
    """Print how large the two drafts are, and what they took to train."""
    a, b = sizes["a"], sizes["b"]
    rows = [
        ["draft on disk, MB", *(number(side["megabytes"], 1) for side in (a, b))],
        ["shared draft, once for all, MB", *(number(side["shared_megabytes"], 1) for side in (a, b))],
        ["trained parameters", *(_count(side["trained_parameters"]) for side in (a, b))],
        ["training, s", *(number(side["training_seconds"], 0) for side in (a, b))],
    ]
    known = [row for row in rows if any(cell not in (MISSING, "-") for cell in row[1:])]
    console.table("", ["size", "A", "B"], known)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def captures(rows: Sequence[dict[str, Any]]) -> None:
    """Print a recipe's captures and their sizes."""
    columns = ["capture", "address", "prompts", "tokens", "signal MB"]
    cells = [[r["what"], r["address"], r["prompts"], r["tokens"], round(r["signal_bytes"] / 1e6, 1)] for r in rows]
    console.table("", columns, cells)


def exported(report: dict[str, Any]) -> None:
    """Print where an export was written, how it is served, and whether it measures the same as the run's draft."""
    console.line(f"wrote {report['folder']} ({report['megabytes']:.0f} MB, {report['dtype']})")
    for note in report.get("notes", []):
        console.paragraph(f"note: {note}", indent=2)
    if served := report.get("served"):
        _findings(served["preflight"])
        console.line(f"start it with\n{served['command']}")
    if not report["checked"]:
        return
    console.paragraph(f"checked on {report['checked_on']}:", indent=2)
    for row in report["checked"]:
        console.line(
            f"  T={row['temperature']:g}: exact {row['exported']:.4f} for the exported folder, {row['draft']:.4f} for "
            f"the run's draft, on the same {row['n_tokens']:,} tokens of {row['n_prompts']} prompts, both in float32"
        )
        if row["allowed"] > _ROUNDED:
            console.line(
                f"    {report['dtype']} rounds: per token the two are {row['difference']:.5f} apart on average "
                f"(at most {row['allowed']:g} is put down to rounding)"
            )
    console.line(f"  generate(assistant_model=...) wrote our greedy text for {report['same_greedy_text']} prompts")
    console.line("  check passed" if report["ok"] else "  CHECK FAILED: do not serve this folder")


def preflight(report: dict[str, Any]) -> None:
    """Print what a server would say to a pair, and the command that would start it."""
    refused = any(finding["level"] == "refused" for finding in report["preflight"])
    form = {"none": "not written", "merged": "written whole", "apart": "its adapter beside its base"}[report["target"]]
    console.line(
        f"{report['server']}: {'would not serve this pair' if refused else 'serves this pair'} "
        f"(gamma {report['gamma']}, {report['proposals']} proposals, target: {form})"
    )
    _findings(report["preflight"] + ([report["folder"]] if report["folder"] else []))
    for note in report["notes"]:
        console.paragraph(f"note: {note}", indent=2)
    if not refused:
        console.line(f"start it with\n{report['command']}")


def _findings(findings: list[dict[str, str]]) -> None:
    for finding in findings:
        console.paragraph(f"{finding['level']}: {finding['what']}", indent=2)
        console.paragraph(f"why: {finding['reason']}", indent=4)
        console.paragraph(f"fix: {finding['fix']}", indent=4)


def indexed(changes: dict[str, Any]) -> None:
    """Print what an update of the index changed."""
    written, unchanged, removed = len(changes["written"]), changes["unchanged"], len(changes["removed"])
    console.line(f"{changes['index']}: {written} written, {unchanged} unchanged, {removed} removed")
    for name, reason in changes["damaged"].items():
        console.line(f"damaged: {name}: {reason}")
    for name, reason in changes["failed"].items():
        console.line(f"not indexed: {name}: {reason}")
