"""Exporting a run: write the folder, then load it without us and measure it against the run's draft on the same text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.decode.bare import told_of_model
from engine.errors import DraftbenchError
from engine.export.check_text import CheckText, fewer, text_at_hand
from engine.export.huggingface import paired_acceptance, refuse_taken, same_greedy_text, write_folder
from engine.export.model_card import model_card
from engine.export.whole_vocabulary import with_whole_vocabulary
from engine.measure.acceptance import draft_states
from engine.models.draft import Draft, load_draft
from engine.models.head import Head
from engine.paths import Home
from engine.progress import Progress
from engine.records.provenance import Provenance
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder
from engine.runs.pipeline import Pipeline

_GREEDY_PROMPTS = 4
_STATES = 8192  # hidden states a row for the ids of a trimmed vocabulary is fitted to and checked on


def export_run(home: Home, run: RunFolder, out: Path, *, overwrite: bool, check: bool) -> dict[str, Any]:
    """Write the best draft of a measured run to `out`; with `check`, measure what was written.

    `ok` in the report is False if the folder is not the run's draft: if the two accept differently at the same
    positions of the same text, or if assisted generation writes another greedy text than our loop.
    """
    refuse_taken(out, overwrite)  # before the minutes that loading may take
    summary = run.summary()
    recipe = run.recipe()
    best = best_draft(run)
    pipeline = Pipeline(home, recipe, None, Progress())
    target = pipeline.target
    draft = load_draft(best, target)
    trimmed = Head.of(draft.model).ids is not None
    text = text_at_hand(pipeline, run) if check or trimmed else None
    if text is not None and not text.prompts:
        raise DraftbenchError(
            f"there is no text to check the export of run {run.id} on",
            f"no prompt at hand fits the target: {text.origin}",
            "put the run's prompt files back, or add --no-check",
        )
    servable = _servable(draft, pipeline) if trimmed else draft
    provenance, note = Provenance.read(run.path) or Provenance(), told_of_model(target.model)
    card = model_card(run.id, recipe, summary, provenance, settings_note=note)
    write_folder(out, servable, target, card, gamma=recipe.measure.num_draft_tokens, overwrite=overwrite)
    report: dict[str, Any] = {
        "run": run.id,
        "folder": str(out),
        "megabytes": sum(f.stat().st_size for f in out.iterdir()) / 1e6,
        "dtype": target.dtype_name,
        "checked": [],
        "ok": True,
        "notes": [note] if note else [],
    }
    if check and text is not None:
        report |= _checked(pipeline, run, out, fewer(pipeline, text))
    return report


def _checked(pipeline: Pipeline, run: RunFolder, out: Path, text: CheckText) -> dict[str, Any]:
    """What the folder measures beside the run's draft, loaded again, on the same text."""
    target, settings = pipeline.target, pipeline.recipe.measure
    captures = {t: pipeline.capture(f"text for the check T={t:g}", p) for t, p in pipeline.heldout_plans().items()}
    names = [prompt.id for prompt in text.prompts]
    draft = load_draft(best_draft(run), target)
    found = paired_acceptance(out, draft, target, captures, names, settings)
    measured = {metric.temperature: metric.value for metric in run.summary().of("trained", "exact")}
    rows = [
        {**asdict(row), "run": row.draft, "measured": measured.get(row.temperature), "same": row.same} for row in found
    ]
    same = same_greedy_text(
        out,
        pipeline.target_float32,
        [a.prompt_ids for a in next(iter(captures.values())).answers[:_GREEDY_PROMPTS]],
        gamma=settings.num_draft_tokens,
        max_new_tokens=settings.certificate_tokens,
    )
    return {
        "checked": rows,
        "checked_on": text.origin,
        "same_greedy_text": f"{sum(same)} of {len(same)}",
        "ok": all(same) and all(row.same for row in found),
    }


def _servable(draft: Draft, pipeline: Pipeline) -> Draft:
    """The draft with all of its target's ids: serving engines know no trimmed head of this form."""
    plans = pipeline.heldout_plans()
    warmest = pipeline.capture("text of the target", plans[max(plans)])  # the text that wanders most
    states = draft_states(draft.model, warmest, most_tokens=_STATES)
    return Draft(with_whole_vocabulary(draft, states, pipeline.target.vocab_rows), draft.info)
