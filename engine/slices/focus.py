"""A focused training set: the training prompts that hold most of a draft's refusals.

The figures of a run come from held-out prompts, and a draft that was trained on one of these would only seem better.
So they say what is hard, and nothing more: what is trained on next is chosen among the run's training prompts, or those
of a file (a log of other days), by the draft's own refusals on the target's answers to them. A file with a held-out
prompt in it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine.capture.store import Capture
from engine.chat.prompt import Prompt, prompts_hash
from engine.config.schema import PromptSource, Recipe
from engine.data.overlap import remove_overlap
from engine.data.readers import read_prompts
from engine.decode.sampling import Sampling
from engine.errors import Cancelled, DraftbenchError
from engine.fileio import disk_errors, read_json, sha256_file, write_atomic, write_json
from engine.measure.acceptance import PromptAcceptance, exact_of_drafts
from engine.models.draft import load_draft
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.paths import Home, resolve_input
from engine.progress import Progress
from engine.records.provenance import Provenance
from engine.runs.advice import best_draft
from engine.runs.began_with import refuse_other_target
from engine.runs.folder import RunFolder
from engine.runs.plan import PromptSplit, plan_training, split_prompts
from engine.runs.session import capture, load_target
from engine.slices.categories import category_of
from engine.slices.reading import token_reader
from engine.slices.selection import MADE_BY, Focus, ScoredPrompt, check_share, worst_prompts
from engine.slices.tokens import BY, CONTEXTS, ENTROPIES, NO_GROUP, POSITIONS, in_buckets
from engine.stopping import stop_on_signals

_SHOWN = 3
_COUNTED_BY = tuple(by for by in BY if by != "prompt")  # a slice by prompt would be one prompt


@dataclass(frozen=True)
class Wanted:
    """What to select: the share of the refusals, perhaps those of one slice alone, among which prompts.

    `prompts`: a file or set as in `prompts.train`, scored in place of the run's own. Raises DraftbenchError for what
    makes no sense, before the minutes of a capture.
    """

    worst: float
    by: str | None = None
    only: str | None = None
    prompts: str | None = None

    def __post_init__(self) -> None:
        check_share(self.worst)
        if (self.by is None) != (self.only is None) or (self.by is not None and self.by not in _COUNTED_BY):
            both = self.by is not None and self.only is not None
            raise DraftbenchError(
                f"--by {self.by} with --only {self.only}" if both else "--only and --by go together",
                "they name one slice, whose refusals alone are counted",
                f"give both, such as --by kind --only json_value; --by is one of: {', '.join(_COUNTED_BY)}",
            )


def focus(home: Home, run: RunFolder, wanted: Wanted, out: Path, *, overwrite: bool = False) -> Focus:
    """Write the fewest training prompts that hold a share of the draft's refusals to `out`, as JSON lines.

    The target's answers are captured first unless they are at hand. A description with the score of each prompt is
    written beside, as `.json`. Raises DraftbenchError for a file with held-out prompts, a run without a draft or that
    learnt from a server, prompts that are not those of the run, an unknown slice, and an `out` that is taken.
    """
    _refuse_taken(out, run.recipe(), overwrite)
    recipe, best = _recipe(run, wanted.prompts), best_draft(run)
    with stop_on_signals() as stop_wanted:
        progress = Progress(stop_wanted=stop_wanted)
        try:
            target = load_target(recipe)
            refuse_other_target(run, target, progress)
            split = _split(run, recipe, target, own=wanted.prompts is None)
            plan = plan_training(home.captures, recipe, target, split.train)
            answers = capture("answers to score", plan, target, recipe.capture, progress)
            results = _read(best, target, answers, recipe)
        except KeyboardInterrupt:
            raise Cancelled("slices") from None
    scored = _scored(results, recipe, wanted)
    selected = worst_prompts(scored, wanted.worst)
    by_id = {prompt.id: prompt for prompt in split.train}
    write_prompts(out, [by_id[item.prompt_id] for item in selected], recipe)
    made = Focus(
        run=run.id,
        file=str(out),
        worst=wanted.worst,
        by=wanted.by,
        only=wanted.only,
        source=wanted.prompts or "the run's training prompts",
        temperature=recipe.capture.temperature,
        **{name: split.counts[name] for name in ("removed_as_heldout", "removed_as_too_long", "bad_rows")},
        sha256=sha256_file(out),
        selected=tuple(selected),
        **_totals(scored, selected),
    )
    write_json(description_of(out), made.document())
    return made


def description_of(out: Path) -> Path:
    """The JSON file beside a focused set."""
    return out.with_suffix(".json")


def write_prompts(out: Path, prompts: Sequence[Prompt], recipe: Recipe) -> None:
    """Write prompts as JSON lines in the form that `prompts.train` reads."""
    labels = {"domain": recipe.prompts.domain, "scenario": recipe.prompts.scenario}
    lines = []
    for prompt in prompts:
        row: dict[str, Any] = {"id": prompt.id, **labels}
        row |= {"group": prompt.group} if prompt.group else {}
        row |= {"messages": list(prompt.messages)} | ({"tools": list(prompt.tools)} if prompt.tools else {})
        lines.append(json.dumps(row, ensure_ascii=False))
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, "\n".join(lines) + "\n")


def _recipe(run: RunFolder, prompts: str | None) -> Recipe:
    """The run's recipe as the prompts are scored with: exact signal, and perhaps other prompts."""
    recipe = run.recipe()
    if recipe.capture.server is not None:
        raise DraftbenchError(
            f"run {run.id} learnt from the text of {recipe.capture.server.model}",
            "refusals are counted where all of the target's distribution is known, and a server does not send it",
            "use a run whose target is a model at hand",
        )
    update: dict[str, Any] = {"capture": recipe.capture.model_copy(update={"signal": "exact"})}
    if prompts is not None:
        source = PromptSource(path=prompts)
        update["prompts"] = recipe.prompts.model_copy(update={"train": [source], "train_prompts": None})
        _refuse_heldout(source, recipe)
    return recipe.model_copy(update=update)


def _refuse_heldout(source: PromptSource, recipe: Recipe) -> None:
    """Refuse a file that holds what the run's drafts are measured on."""
    own = read_prompts([source], skip_bad=recipe.prompts.skip_bad).prompts
    heldout = read_prompts(recipe.prompts.heldout, skip_bad=recipe.prompts.skip_bad, stored=True).prompts
    _, repeats = remove_overlap(own, heldout)
    if repeats:
        shown = ", ".join(f"{repeat.prompt_id} ({repeat.kind})" for repeat in repeats[:_SHOWN])
        more = f" and {len(repeats) - _SHOWN} more" if len(repeats) > _SHOWN else ""
        raise DraftbenchError(
            f"{len(repeats)} of the {len(own)} prompts of {source.path} repeat held-out prompts of the run: "
            f"{shown}{more}",
            "a draft that is trained on what it is measured on only seems better",
            "take them out of the file, or leave --prompts out: then the run's own training prompts are scored",
        )


def _refuse_taken(out: Path, recipe: Recipe, overwrite: bool) -> None:
    if out.suffix.lower() != ".jsonl":
        raise DraftbenchError(
            f"{out.name} is no .jsonl file", "prompts are written as JSON lines", "give --out FILE.jsonl"
        )
    for source in [*recipe.prompts.train, *recipe.prompts.heldout]:
        path = resolve_input(source.path) if ":" not in source.path else None
        if path is not None and path.exists() and out.exists() and out.samefile(path):
            raise DraftbenchError(f"{out} holds prompts of the run itself", "they would be lost", "give another --out")
    about = description_of(out)
    if not out.exists() and not about.exists():
        return
    ours = about.is_file() and isinstance(document := read_json(about), dict) and document.get("made_by") == MADE_BY
    if not ours:
        raise DraftbenchError(
            f"{out if out.exists() else about} exists and was not written by this command",
            "its contents would be lost",
            "give another --out",
        )
    if not overwrite:
        raise DraftbenchError(f"{out} exists", "a run may use its prompts", "give another --out, or add --overwrite")


def _split(run: RunFolder, recipe: Recipe, target: LoadedModel, *, own: bool) -> PromptSplit:
    """The prompts to score. Raises DraftbenchError unless they and the held-out ones are those of the run."""
    split = split_prompts(recipe, target)
    kept = run.path / "prompts.json"
    hashes = {"train": prompts_hash(split.train), "heldout": split.heldout_hash}
    origin = Provenance.read_or_empty(run.path).prompts
    begun = read_json(kept) if kept.exists() else {"train": origin.train_hash} if origin.train_hash else {}
    changed = [name for name, known in begun.items() if hashes.get(name) != known and (own or name == "heldout")]
    measured = run.summary().conditions.heldout_hash if run.summary_path.exists() else None
    if measured is not None and prompts_hash(split.measured) != measured and "heldout" not in changed:
        changed.append("heldout")
    if changed:
        raise DraftbenchError(
            f"the {' and '.join(changed)} prompts are not those of run {run.id}",
            "a file was changed since, or a pack was fetched or is gone: it is not certain what is held out",
            "put the prompts back (`draftbench show` names the sources and packs)",
        )
    return split


def _read(best: Path, target: LoadedModel, answers: Capture, recipe: Recipe) -> list[PromptAcceptance]:
    """The acceptance of the run's draft at each token of the answers."""
    draft, spec = load_draft(best, target), recipe.capture
    sampling = Sampling(spec.temperature, spec.top_k, spec.top_p)
    head = Head.of(target.model)
    return exact_of_drafts({"draft": draft.model}, head, answers, sampling, with_entropy=True)["draft"]


def _scored(results: Sequence[PromptAcceptance], recipe: Recipe, wanted: Wanted) -> list[ScoredPrompt]:
    """Each prompt with its refusals, all of them or those in the slice that is wanted."""
    scored, seen = [], set[str]()
    reader = token_reader(recipe.target) if wanted.by == "kind" else None
    for result in results:
        inside = np.ones(len(result.token_ids), dtype=bool)
        if wanted.by is not None:
            kinds = None if reader is None else np.asarray(reader.kinds(result.token_ids))
            names = _slices(result, wanted.by, recipe.prompts.domain) if kinds is None else kinds
            seen.update(names.tolist())
            inside = names == wanted.only
        refused = (1 - result.overlap.double().clamp(max=1)).numpy()[inside]
        scored.append(ScoredPrompt(result.prompt_id, result.group, float(refused.sum()), int(inside.sum())))
    if wanted.by is not None and wanted.only not in seen:
        raise DraftbenchError(
            f"no token is in the slice {wanted.only!r} by {wanted.by}", "", f"known: {', '.join(sorted(seen))}"
        )
    return scored


def _slices(result: PromptAcceptance, by: str, domain: str) -> np.ndarray[Any, np.dtype[np.str_]]:
    """The slice of each token of an answer, as `engine.slices.tokens` names them."""
    places = pd.Series(range(len(result.token_ids)), dtype=float)
    if by == "position":
        return in_buckets(places, POSITIONS)
    if by == "context":
        return in_buckets(places + float(result.prompt_tokens or 0), CONTEXTS)
    if by == "entropy":
        assert result.entropy is not None  # asked for above
        return in_buckets(pd.Series(result.entropy.numpy()), ENTROPIES)
    name = category_of(result.group, domain) if by == "category" else result.group or NO_GROUP
    return np.full(len(places), name)


def _totals(scored: Sequence[ScoredPrompt], selected: Sequence[ScoredPrompt]) -> dict[str, Any]:
    """How much the selected prompts hold, and how well the draft does on them and on all."""
    refused, refused_of_all = (sum(item.refusals for item in some) for some in (selected, scored))
    tokens, tokens_of_all = (sum(item.tokens for item in some) for some in (selected, scored))
    return {
        "n_scored": len(scored),
        "n_selected": len(selected),
        "refusal_share": refused / refused_of_all,
        "token_share": tokens / tokens_of_all,
        "acceptance": 1 - refused / tokens,
        "acceptance_of_all": 1 - refused_of_all / tokens_of_all,
    }
