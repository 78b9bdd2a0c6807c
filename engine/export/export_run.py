"""Export a run: write the folder, then load it with Transformers and compare it with the run's draft."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from engine.catalogue import DEFAULT_FORMAT, EXPORTERS
from engine.decode.bare import remark_on_model
from engine.errors import DraftbenchError, did_you_mean
from engine.export import Load, exporter
from engine.export.check import ALLOWED, paired_acceptance, same_greedy_text
from engine.export.check_text import CheckText, fewer, text_at_hand
from engine.export.folder import refuse_among_runs, refuse_taken, write_folder
from engine.export.for_server import Wishes, check_plan, plan, use_section, write_beside
from engine.export.model_card import gguf_use, model_card
from engine.export.steps import GREEDY, LOAD, PAIR, RATES, TEXT, WRITE, begin
from engine.export.whole_vocabulary import with_rows, with_whole_vocabulary
from engine.measure.acceptance import draft_states
from engine.models.draft import Draft, load_draft
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.paths import Home
from engine.progress import Progress
from engine.records.provenance import Provenance
from engine.runs.advice import best_draft
from engine.runs.began_with import check_target
from engine.runs.folder import RunFolder
from engine.runs.session import capture, in_float32, load_target

_GREEDY_PROMPTS = 4
_STATES = 8192  # hidden states a row for the ids of a trimmed vocabulary is fitted to and checked on


def export_run(
    home: Home,
    run: RunFolder,
    out: Path,
    *,
    overwrite: bool,
    check: bool,
    format_name: str = DEFAULT_FORMAT,
    precision: str | None = None,
    wishes: Wishes | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the best draft of a measured run to `out`; with `check`, measure what was written.

    `wishes`: the server that it is for, which decides the format and gets a start command; a pair that the server would
    refuse is refused before any weights are loaded. `precision`: of a format that has several, its default if None.
    `ok` in the report is False if the folder is not the run's draft: if the two accept differently at the same
    positions of the same text by more than the rounding of the format, or if assisted generation writes another greedy
    text than our loop.
    """
    progress = progress or Progress()
    begin(progress, PAIR, check=check)
    made = plan(run, run.recipe(), wishes) if wishes is not None else None
    unlike = check_target(run, run.recipe().target) if made is None else ""  # a plan says it
    if made is not None:
        check_plan(made)
        format_name, precision = made.card.weights, made.asked.gguf if made.card.weights == "gguf" else None
    form = exporter(format_name)
    rounding = chosen_precision(format_name, precision)
    refuse_among_runs(home, out)
    refuse_taken(out, overwrite)  # before the minutes that loading may take
    summary, recipe, best = run.summary(), run.recipe(), best_draft(run)
    begin(progress, LOAD, check=check)
    target = load_target(recipe)
    draft = load_draft(best, target)
    trimmed = Head.of(draft.model).ids is not None
    rows = made.rows if made is not None else None  # of the served target, where the draft has others
    text = text_at_hand(home, run, recipe, target) if check or trimmed or rows else None
    if text is not None and not text.prompts.measured:
        raise DraftbenchError(
            f"there is no text to check the export of run {run.id} on",
            f"no prompt at hand fits the target: {text.origin}",
            "put the run's prompt files back, or add --no-check",
        )
    load = form.load
    if text is not None and (trimmed or rows):
        states = _states(draft, text, home, target, progress)
        if trimmed:
            draft = Draft(with_whole_vocabulary(draft, states, target.vocab_rows), draft.info)
        if rows:
            draft = Draft(with_rows(draft.model, states, rows), draft.info)
            load = _with_rows_of(target, states, form.load)
    begin(progress, WRITE, check=check)
    provenance, note = Provenance.read(run.path) or Provenance(), remark_on_model(target.model)
    use = gguf_use(rounding) if rounding is not None else None
    if made is not None:
        use = use_section(made)
    card = model_card(run.id, recipe, summary, provenance, settings_note=note, use=use)
    gamma = made.asked.gamma if made is not None else recipe.measure.num_draft_tokens
    lost: list[str] = []

    def write(folder: Path) -> None:
        chosen = {} if rounding is None else {"precision": rounding}
        lost.extend(form.write(folder, draft, target, gamma=gamma, **chosen) or [])
        if made is not None:
            lost.extend(write_beside(folder, out, made, target))

    write_folder(out, card, write, overwrite=overwrite)
    report: dict[str, Any] = {
        "run": run.id,
        "folder": str(out),
        "megabytes": sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e6,
        "format": format_name,
        "dtype": rounding or target.dtype_name,
        "checked": [],
        "ok": True,
        "notes": [*(said for said in (unlike, note) if said), *lost],
    }
    if made is not None:
        served = made.report(out)
        report |= {"served": served, "notes": [*report["notes"], *served.pop("notes")]}
    if check and text is not None:
        allowed = ALLOWED[rounding or ""]
        report |= check_export(load, run, out, fewer(text, home, target), home, target, progress, allowed)
    return report


def chosen_precision(format_name: str, precision: str | None) -> str | None:
    """The precision of an export, None for a format that has one alone. Raises DraftbenchError for another one."""
    offered = EXPORTERS[format_name].precisions
    if precision is not None and precision not in offered:
        raise DraftbenchError(
            f"precision {precision!r} of the format {format_name}",
            f"it has {', '.join(offered)}" if offered else "its weights have the target's dtype",
            did_you_mean(precision, offered) if offered else "leave --gguf out, or give --format gguf",
        )
    return precision or (offered[0] if offered else None)


def check_export(
    load: Load,
    run: RunFolder,
    out: Path,
    text: CheckText,
    home: Home,
    target: LoadedModel,
    progress: Progress,
    allowed: float = ALLOWED[""],
    *,
    draft: Draft | None = None,
) -> dict[str, Any]:
    """Compare the folder with the run's draft, both loaded again, on the same text.

    `draft`: the run's draft in another precision than the target's.
    """
    settings = text.recipe.measure
    begin(progress, TEXT, check=True)
    captures = {
        t: capture(f"text for the check T={t:g}", plan, target, text.recipe.capture, progress)
        for t, plan in text.plans(home, target).items()
    }
    names = [prompt.id for prompt in text.prompts.measured]
    ours = load_draft(best_draft(run), target) if draft is None else draft
    begin(progress, RATES, check=True)
    checked = paired_acceptance(load, out, ours, target, captures, names, settings, allowed)
    measured = {metric.temperature: metric.value for metric in run.summary().of("trained", "exact")}
    begin(progress, GREEDY, check=True)
    same = same_greedy_text(
        load,
        out,
        in_float32(target),
        [a.prompt_ids for a in next(iter(captures.values())).answers[:_GREEDY_PROMPTS]],
        gamma=settings.num_draft_tokens,
        max_new_tokens=settings.certificate_tokens,
    )
    return {
        "checked": [
            {**asdict(row), "run": row.draft, "measured": measured.get(row.temperature), "same": row.same}
            for row in checked
        ],
        "checked_on": text.origin,
        "same_greedy_text": f"{sum(same)} of {len(same)}",
        "ok": all(same) and all(row.same for row in checked),
    }


def _states(draft: Draft, text: CheckText, home: Home, target: LoadedModel, progress: Progress) -> torch.Tensor:
    """What enters the draft's head on the target's text: [position, width]."""
    plans = text.plans(home, target)
    warmest = plans[max(plans)]  # the text that wanders most
    answers = capture("text of the target", warmest, target, text.recipe.capture, progress)
    return draft_states(draft.model, answers, most_tokens=_STATES)


def _with_rows_of(target: LoadedModel, states: torch.Tensor, load: Load) -> Load:
    """`load`, and the rows of the run's own target, which the draft is checked with."""

    def loaded(folder: Path, dtype: torch.dtype, device: torch.device, *, remote_code: bool = False) -> Any:
        return with_rows(load(folder, dtype, device, remote_code=remote_code), states, target.vocab_rows)

    return loaded
