"""Exporting a run: write the folder, then load it without us and measure the same prompts again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import DraftbenchError
from engine.export.huggingface import acceptance_again, refuse_taken, same_greedy_text, write_folder
from engine.export.model_card import model_card
from engine.export.whole_vocabulary import with_whole_vocabulary
from engine.fileio import read_json
from engine.measure.acceptance import draft_states
from engine.models.draft import Draft, load_draft
from engine.models.head import Head
from engine.paths import Home
from engine.progress import Progress
from engine.runs.folder import RunFolder
from engine.runs.pipeline import Pipeline

_SAME = 1e-3  # of acceptance: batches of another shape round differently in low precision
_GREEDY_PROMPTS = 4
_STATES = 8192  # hidden states a row for the ids of a trimmed vocabulary is fitted to and checked on


def export_run(home: Home, run: RunFolder, out: Path, *, overwrite: bool, check: bool) -> dict[str, Any]:
    """Write the best draft of a measured run to `out`; with `check`, measure what was written.

    `ok` in the report is False if the folder does not measure what the run measured.
    """
    refuse_taken(out, overwrite)  # before the minutes that loading may take
    summary = run.summary()
    recipe = run.recipe()
    pipeline = Pipeline(home, recipe, None, Progress())
    target = pipeline.target
    draft = _servable(load_draft(run.path / "draft" / "best", target), pipeline)
    provenance = read_json(run.path / "provenance.json")
    write_folder(out, draft, target, model_card(run.id, recipe, summary, provenance), overwrite=overwrite)
    report: dict[str, Any] = {
        "run": run.id,
        "folder": str(out),
        "megabytes": sum(f.stat().st_size for f in out.iterdir()) / 1e6,
        "dtype": target.dtype_name,
        "checked": [],
        "ok": True,
    }
    if not check:
        return report
    captures = {t: pipeline.capture(f"held-out T={t:g}", plan) for t, plan in pipeline.heldout_plans().items()}
    prompt_ids = [prompt.id for prompt in pipeline.prompts.measured]
    again = acceptance_again(out, target, captures, prompt_ids, recipe.measure)
    told = {
        m["temperature"]: m["value"] for m in summary["metrics"] if (m["draft"], m["metric"]) == ("trained", "exact")
    }
    if set(told) != set(again):
        raise DraftbenchError(
            f"run {run.id} was measured at other temperatures than its recipe names", "", "draftbench measure it again"
        )
    report["checked"] = [{"temperature": t, "run": told[t], "exported": again[t]} for t in again]
    prompts = [a.prompt_ids for a in next(iter(captures.values())).answers[:_GREEDY_PROMPTS]]
    same = same_greedy_text(
        out,
        pipeline.target_float32,
        prompts,
        gamma=recipe.measure.num_draft_tokens,
        max_new_tokens=recipe.measure.certificate_tokens,
    )
    report["same_greedy_text"] = f"{sum(same)} of {len(same)}"
    report["ok"] = all(same) and all(abs(told[t] - again[t]) <= _SAME for t in again)
    return report


def _servable(draft: Draft, pipeline: Pipeline) -> Draft:
    """The draft with all of its target's ids: serving engines know no trimmed head of this form."""
    if Head.of(draft.model).ids is None:
        return draft
    plans = pipeline.heldout_plans()
    warmest = pipeline.capture("held-out", plans[max(plans)])  # the text that wanders most
    states = draft_states(draft.model, warmest, most_tokens=_STATES)
    return Draft(with_whole_vocabulary(draft, states, pipeline.target.vocab_rows), draft.info)
