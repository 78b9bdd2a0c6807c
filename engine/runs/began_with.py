"""The target and the prompts that a run began with. A recipe names both, and what it names may change.

A `pack:` set grows when a pack is fetched, files are edited, weights or a template are replaced in a model's folder,
and a model of the hub moves on. The rest of the run would not fit what it has done, so it does not go on with others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.chat.prompt import prompts_hash
from engine.chat.rendering import template_hash
from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.fileio import read_json, write_json
from engine.models.load import LoadedModel, load_tokenizer, model_fingerprint
from engine.models.locate import hub_commit, model_files
from engine.progress import Progress
from engine.records.provenance import Provenance
from engine.runs.folder import RunFolder
from engine.runs.plan import PromptSplit

_SHOWN_FILES = 4


def refuse_other_target(run: RunFolder, target: LoadedModel, progress: Progress) -> None:
    """Refuse a target of other files, or of another chat template, than the run was first opened with.

    A run made before this was kept goes on, and another fingerprint than it was trained with is noted.
    """
    note = check_target(run, target.spec, target.tokenizer)
    if note:
        progress.note(note)
    elif not (path := _record(run)).exists():
        write_json(path, _as_it_is(target.spec, target.tokenizer) | {"commit": hub_commit(target.spec)})


def check_target(run: RunFolder, spec: ModelSpec, tokenizer: Any = None) -> str:
    """Refuse the same for whoever takes a run's draft up without going on with the run; nothing is written.

    `spec`: the run's target. `tokenizer`: its own, read from its folder if None. Returns a sentence on a run of before
    this was kept whose target has another fingerprint than it was trained with, "" for all others. Raises
    DraftbenchError for another target, and for one that is not here.
    """
    path = _record(run)
    if not path.exists():
        trained, now = Provenance.read_or_empty(run.path).target_fingerprint, model_fingerprint(spec)
        if trained is None or trained == now:
            return ""
        return (
            f"the target's files are not those of before: the fingerprint of {spec.label} was {trained[:12]} and is "
            f"{now[:12]}"
        )
    then = read_json(path)
    if changed := _changes(then, _as_it_is(spec, load_tokenizer(spec) if tokenizer is None else tokenizer)):
        commit = then.get("commit")
        raise DraftbenchError(
            f"the target of run {run.id} is not the one it began with: {', '.join(changed)}",
            f"{spec.label} holds other files now, and the run learnt and measured with those before",
            f"set `revision: {commit}` under `target` in {run.path / 'config.yaml'}, or start a new run"
            if commit
            else "put the files back, or start a new run",
        )
    return ""


def _record(run: RunFolder) -> Path:
    return run.path / "target.json"


def _as_it_is(spec: ModelSpec, tokenizer: Any) -> dict[str, Any]:
    return {"files": model_files(spec), "template": template_hash(tokenizer)}


def _changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    before, here = then["files"], now["files"]
    names = sorted(name for name in before.keys() | here.keys() if before.get(name) != here.get(name))
    words = [
        f"{name} {'is new' if name not in before else 'is gone' if name not in here else 'has changed'}"
        for name in names[:_SHOWN_FILES]
    ]
    words += [f"and {len(names) - _SHOWN_FILES} more files"] if len(names) > _SHOWN_FILES else []
    return words + (["it has another chat template"] if then["template"] != now["template"] else [])


def refuse_other_prompts(run: RunFolder, prompts: PromptSplit) -> None:
    """Refuse other prompts than the run was first opened with.

    Of the held-out prompts all count, since a measurement may take more or fewer of them.
    """
    path = run.path / "prompts.json"
    hashes = {"train": prompts_hash(prompts.train), "heldout": prompts.heldout_hash}
    if not path.exists():
        write_json(path, hashes)
        return
    changed = [name for name, recorded in read_json(path).items() if hashes[name] != recorded]
    if changed:
        raise DraftbenchError(
            f"the {' and '.join(changed)} prompts of run {run.id} are not those it began with",
            "a prompt file was changed since, or a pack was fetched or is gone: "
            "the rest of the run would not fit what it has done",
            "put the prompts back (`draftbench show` names the sources and packs), or start a new run",
        )
