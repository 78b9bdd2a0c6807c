"""The model card of an exported draft: what it is, how it was measured, how to serve it."""

from __future__ import annotations

import re
from pathlib import Path

from engine.config.schema import Recipe
from engine.measure.decision import decide
from engine.measure.speed_words import describe, measured_where
from engine.numbers import bounds, is_number, number
from engine.records.certificate import Certificate
from engine.records.provenance import Provenance
from engine.records.summary import Conditions, Summary
from engine.untrusted.visible import visible


def model_card(
    run_id: str,
    recipe: Recipe,
    summary: Summary,
    provenance: Provenance,
    *,
    settings_note: str = "",
    use: list[str] | None = None,
) -> str:
    """Markdown with the measured numbers, their intervals and conditions. Every figure is read from the run.

    `settings_note`: what the target's own generation settings ask for (`engine.decode.bare.remark`). `use`: the lines
    of the section that says how it is served; None: with Transformers.
    """
    source, conditions, served = provenance.source, summary.conditions, summary.served
    losses = ", ".join(term.name for term in recipe.train.loss)
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [speculative-decoding, draft-model, draftbench]",
        "---",
        "",
        f"# Draft model for {code(public_name(recipe.target.model) + _adapter(recipe))}",
        "",
        f"Trained by Draftbench run `{run_id}` for the domain {code(recipe.prompts.domain)} "
        f"({recipe.prompts.scenario} prompts, {recipe.train.mode}, {losses}).",
        "",
        "It proposes tokens that the target verifies; the output stays the target's. On its own it writes poor text.",
        "",
        "## Measured acceptance on held-out prompts",
        "",
        "| temperature | metric | before training | trained | 95% interval | prompts | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    before = {(m.temperature, m.metric): number(m.value) for m in summary.metrics if m.draft == "initial"}
    for m in summary.metrics:
        if m.draft == "trained":
            first = before.get((m.temperature, m.metric), "")
            lines.append(
                f"| {m.temperature:g} | {m.metric} | {first} | {number(m.value)} "
                f"| {bounds(m)} | {number(m.n_prompts, 0)} | {number(m.n_tokens, 0)} |"
            )
    exact = (
        f"Measured against the text of the served model {conditions.served_by}: `exact` is the mean of "
        "min(1, q(x)/p(x)) over the tokens x that it drew. No sampled rates, speed or certificate."
        if served
        else "`exact` is the mean of sum min(p, q) over the target's own text."
    )
    lines += [
        "",
        f"Conditions: {_in_words(conditions)}. {exact}",
    ]
    if where := measured_where(summary, provenance):
        lines += ["", f"Measured on {where}."]
    if speed := summary.speed:
        lines += [
            "",
            f"Speed there, batch 1, {speed.threads} threads, temperature {speed.temperature:g}: "
            f"{describe(speed)}. On another machine it is another figure.",
        ]
    decision = decide(summary)
    lines += ["", f"**{decision.sentence}.**"]
    if decision.changes:
        lines += [
            "",
            "What would change it:",
            "",
            *(f"- {change.replace(' RUN', f' {run_id}')}" for change in decision.changes),
        ]
    if settings_note:
        lines += ["", f"Note: {settings_note}."]
    lines += [] if summary.certificate is None else _certificate(summary.certificate)
    lines += [
        "",
        *(use if use is not None else _transformers_use(conditions.dtype)),
        "",
        "## Origin",
        "",
        f"- target fingerprint `{provenance.target_fingerprint or 'unknown'}`",
        f"- Draftbench {provenance.versions.get('draftbench', '?')}, "
        f"commit `{source.commit or 'unknown'}`{' with changes' if source.changed else ''}",
        f"- seeds {provenance.seeds.document()}",
        "",
    ]
    return "\n".join(lines)


def _in_words(conditions: Conditions) -> str:
    """'gamma 3, bfloat16 on cpu, top-p 1, top-k 0, seed 0'; what is not known is left out."""
    parts = [conditions.proposing if conditions.served_by is None else ""]
    parts += [" on ".join(filter(None, (conditions.precision, conditions.where)))]
    parts += [f"top-p {conditions.top_p:g}"] if is_number(conditions.top_p) else []
    parts += [
        f"{name} {value}"
        for name, value in (("top-k", conditions.top_k), ("seed", conditions.seed))
        if value is not None
    ]
    return ", ".join(filter(None, parts)) or "not known"


def _transformers_use(dtype: str | None) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM",
        "",
        f'draft = AutoModelForCausalLM.from_pretrained("THIS_FOLDER", dtype={dtype or "auto"!a})',
        "target.generate(**inputs, assistant_model=draft)",
        "```",
    ]


def gguf_use(precision: str) -> list[str]:
    """How a GGUF draft is used with a target in the same format."""
    return [
        "## Use",
        "",
        "```sh",
        f"llama-server --model TARGET.gguf --spec-draft-model draft-{precision}.gguf --spec-type draft-simple",
        "```",
    ]


def _certificate(certificate: Certificate) -> list[str]:
    verdict = "passed" if certificate.passed else "FAILED"
    checks = [f"- {check.name}: {check.detail}" for check in certificate.checks]
    return ["", f"Losslessness certificate: {verdict}.", "", *checks]


def _adapter(recipe: Recipe) -> str:
    return f" + {one_line(Path(recipe.target.adapter).name)}" if recipe.target.adapter else ""


def public_name(model: str) -> str:
    """A model's name as it may be published: of a local path the last part, not the folders of whoever made it."""
    return one_line(Path(model).name if Path(model).is_absolute() else model.removeprefix("hub:"))


def one_line(name: str) -> str:
    """A name on one line, with a sign for each hidden character."""
    return visible(name.replace("\n", "\u240a").replace("\t", "\u2409"))


def code(name: str) -> str:
    """A name as code in Markdown."""
    text = one_line(name)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"
