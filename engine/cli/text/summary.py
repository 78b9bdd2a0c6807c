"""A run's measurement as text in 80 columns: acceptance, speed and certificate."""

from __future__ import annotations

from rich.text import Text

from engine.catalogue import servers_by_rate
from engine.cli.text import console
from engine.measure import speed_words
from engine.measure.decision import decide
from engine.measure.definitions import RATES
from engine.numbers import MISSING, is_number, number, ratio, share
from engine.paths import home
from engine.records.certificate import Certificate
from engine.records.interval import Interval
from engine.records.provenance import Provenance
from engine.records.speed import Speed
from engine.records.summary import Served, Summary
from engine.runs.advice import changes_of
from engine.runs.folder import RunFolder

_USUAL = (
    "exact: mean of sum min(p, q) over the target's own text; argmax: mean of p(argmax q) over it; "
    "greedy_agreement: the target's choice = argmax q; "
    "per_proposed, per_examined, per_emitted: accepted over proposed, judged, emitted tokens; "
    "tau: tokens per target forward; "
)
_OTHERS = "".join(f"{name}: {rate.formula}; " for name, rate in RATES.items() if name not in _USUAL)
_DEFINITIONS = f"{_USUAL}{_OTHERS}[low, high]: 95% interval over prompts"
_SERVED_DEFINITIONS = (
    "exact: mean of min(1, q(x)/p(x)) over the tokens x that the server drew, an estimate of the mean of "
    "sum min(p, q) from one token per position; argmax: share of them that are argmax q, an estimate of the mean of "
    "p(argmax q); greedy_agreement: argmax q is the token that the server wrote at "
    "T = 0; [low, high]: 95% interval over prompts"
)


def summary(run_id: str, measured: Summary, provenance: Provenance) -> None:
    """Print acceptance before and after training, speed and where it was measured, and the certificate."""
    conditions, served = measured.conditions, measured.served
    if measured.subject == "target alone":
        _target_alone(run_id, measured, provenance)
        return
    where = " on ".join(filter(None, (conditions.precision, conditions.where)))
    measured_with = [number(conditions.heldout_prompts, 0) + " prompts", "" if served else conditions.proposing, where]
    console.line(f"{run_id}\nheld-out: {', '.join(filter(None, measured_with))}")
    if served:
        console.paragraph(f"measured against the text of the served model {conditions.served_by}")
    if measured.subject == "draft as it is":
        console.line("the draft was measured as it is; nothing was trained")
        console.table("", ["", "as it is"], [[row[0], row[2]] for row in _acceptance_rows(measured)])
    else:
        console.table("", ["", "before", "trained", "paired change"], _acceptance_rows(measured))
    console.paragraph(_SERVED_DEFINITIONS if served else _DEFINITIONS)
    servers()
    verdict(measured, run_id)
    if measured.speed:
        _speed(measured.speed, speed_words.measured_where(measured, provenance))
    if served:
        _served(served)
    elif measured.certificate:
        _certificate(measured.certificate)


def _target_alone(run_id: str, measured: Summary, provenance: Provenance) -> None:
    """Print how fast a target decodes without a draft."""
    conditions, speed = measured.conditions, measured.speed or Speed()
    where = speed_words.measured_where(measured, provenance)
    if measured.served is not None:
        console.line(f"{run_id}\nthe served model {conditions.served_by}, timed over the network; nothing was trained")
        verdict(measured, run_id)
        return
    console.line(f"{run_id}\nthe target alone, {conditions.precision} on {conditions.where}; nothing was trained")
    verdict(measured, run_id)
    console.line("")
    console.paragraph(
        f"speed at T={speed.temperature:g}, batch 1, {speed.threads} threads, {conditions.heldout_prompts} prompts; "
        f"one token takes {number(1000 * speed.forward_s.plain_s, 1)} ms"
    )
    if where:
        console.paragraph(f"measured on {where}", indent=2)


def verdict(measured: Summary, run_id: str) -> None:
    """Print whether to serve the draft, why, and what would change that."""
    decision = decide(measured)
    console.line("")
    console.paragraph(decision.sentence)
    if changes := changes_of(decision, RunFolder(home().run(run_id))):
        console.paragraph("what would change it: " + "; ".join(changes), indent=2)


def servers() -> None:
    """Print which rate each server's own figure comes from."""
    rates = "; ".join(f"{rate}: {', '.join(names)}" for rate, names in servers_by_rate().items())
    console.paragraph(f"what servers will report comes from {rates}")


def _acceptance_rows(measured: Summary) -> list[list[str]]:
    """A heading per temperature, and below it a row per rate; argmax is named where an earlier version left it out."""
    before = {(m.temperature, m.metric): m for m in measured.metrics if m.draft == "initial"}
    gains = {(gain.temperature, gain.metric): gain for gain in measured.improvement}
    rows: list[list[str]] = []
    heading, known = None, {(m.temperature, m.metric) for m in measured.metrics if m.draft == "trained"}
    for trained in measured.metrics:
        if trained.draft != "trained":
            continue
        if trained.temperature != heading:
            heading = trained.temperature
            rows.append([f"T = {heading:g}", "", "", ""])
        key = (trained.temperature, trained.metric)
        cells = [before.get(key), trained, gains.get(key)]
        rows.append([trained.metric, *(console.rate(cell) if cell else "" for cell in cells)])
        if trained.metric == "exact" and (trained.temperature, "argmax") not in known:
            rows.append(["argmax", "", "not measured", ""])
    return rows


def _served(served: Served) -> None:
    """Print how much of the server's text was used, and what cannot be measured without the target."""
    console.line("")
    for at in served.positions:
        fit = (
            f"; the text fits the log-probabilities that the server reports (z = {at.calibration.z:+.1f})"
            if at.calibration
            else ""
        )
        left_out = f"{at.left_out:,} with an uncertain id or probability left out" if at.left_out else "all"
        console.paragraph(
            f"T = {at.temperature:g}: {at.used:,} tokens ({left_out}) of {at.prompts} of {at.asked} answers{fit}"
        )
    console.paragraph(
        "no sampled rates, tau, speed or certificate: they need the target itself on this machine "
        "(`draftbench measure RUN --set measure.against=model` measures with the local model)"
    )


def _speed(speed: Speed, where: str) -> None:
    split, predicted = speed.time_split, speed.predicted_speedup
    rates = {way: number(rate.value, 1) for way, rate in speed.tokens_per_s.items()}
    console.line("")
    console.paragraph(
        f"speed at T={speed.temperature:g}, batch 1, {speed.threads} threads: "
        f"plain {rates.get('plain', MISSING)} tokens/s, speculative {rates.get('speculative', MISSING)} tokens/s, "
        f"speed-up {ratio(speed.speedup or Interval())}"
    )
    if speed.speedup_over_transformers:
        console.paragraph(
            f"Transformers' plain generate {rates.get('transformers', MISSING)} tokens/s, "
            f"speed-up over it {ratio(speed.speedup_over_transformers)}",
            indent=2,
        )
    expected = (
        f"predicted speed-up {number(predicted.formula, 2)}x by the formula, "
        f"{number(predicted.measured_times, 2)}x with measured times"
    )
    console.paragraph(
        f"c = {number(speed.cost_ratio)}; time: draft {share(split.draft)}, verify {share(split.verify)}, "
        f"overhead {share(split.overhead)}; "
        f"{expected if is_number(predicted.formula) else 'no speed-up is predicted, as gamma adapted'}",
        indent=2,
    )
    if where:
        console.paragraph(f"measured on {where}", indent=2)
    console.paragraph(_break_even(speed), indent=2)


def _break_even(speed: Speed) -> str:
    """The acceptance from which speculation pays at its best gamma by the formula; NaN where none does."""
    break_even = speed.break_even_alpha.some_gamma
    if not break_even < 1:
        return "speculation cannot pay: at this c a draft forward costs as much as a target forward"
    return (
        f"by the formula, which takes a verification for a plain step: pays above an acceptance of {break_even:.3f}, "
        f"best gamma {speed.best_gamma}"
    )


def _certificate(certificate: Certificate) -> None:
    verdict = Text("passed", style="bold green") if certificate.passed else Text("FAILED", style="bold red")
    console.out.print("\ncertificate:", verdict)
    marks = {True: Text("ok", style="green"), False: Text("FAIL", style="red"), None: Text("note")}
    console.table("", ["", ""], [[marks[check.passed], check.detail] for check in certificate.checks])
