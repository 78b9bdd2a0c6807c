"""Whether a run was made from what its recipe names today.

A recipe names prompts, target and drafts by path: a file may be edited, a `pack:` set grows when a pack is fetched, a
draft is trained again. A run records hashes of its inputs; here they are compared with those of the files of today.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import engine
from engine.chat.prompt import Prompt, prompts_hash
from engine.config.schema import PromptSource, Recipe
from engine.data.readers import read_prompts
from engine.data.subsets import nested_subset, split_heldout
from engine.errors import DraftbenchError
from engine.fileio import content_hash, read_json, write_json
from engine.models.hashes import hashes_of_model
from engine.paths import PROJECT_ROOT, Home, cache_dir, resolve_input
from engine.runs.folder import RunFolder

_WORDS = {
    "train": "training prompts",
    "heldout": "held-out prompts",
    "measured": "held-out prompts",
    "target": "files of the target",
    "checkpoint": "draft.checkpoint",
    "reference": "train.selection.reference",
}
_NOTES = ("prompts.json", "provenance.json")  # of a run
_ADAPTER = "adapter/"  # before the names of its files in a run's target.json
_UNREADABLE = (DraftbenchError, OSError, ValueError, LookupError, TypeError, AttributeError)
_UNKNOWN: set[str] = set()  # keys of hashes that could not be computed in this process
_MORE = 1.3  # times as many prompts are filtered as are wanted, before all are

Stamp = tuple[tuple[str, int, int], ...]  # name, time of change and size of each file


class Inputs:
    """The inputs that recipes name, at one moment: each source's files are looked at once."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._stamps: dict[str, Stamp | None] = {}
        self._models: dict[str, dict[str, str]] = {}

    def differing(self, run: RunFolder, recipe: Recipe) -> list[str]:
        """The inputs of the run that are others today, in words, for a `recipe` of the same identity.

        Empty also where that cannot be known: the run notes nothing, or a source is not on this machine.
        """
        then = _noted(run.path, _stamp_of([run.path / name for name in _NOTES]))
        names = [name for name in ("checkpoint", "reference") if self._other_weights(name, then.get(name), recipe)]
        with contextlib.suppress(*_UNREADABLE):
            names += ["target"] if self._other_target(run, recipe) else []
        with contextlib.suppress(*_UNREADABLE):
            names += self._other_prompts(then, recipe)
        return [_WORDS[name] for name in names]

    def _other_weights(self, name: str, then: str | None, recipe: Recipe) -> bool:
        named = recipe.draft.checkpoint if name == "checkpoint" else recipe.train.selection.reference
        now = None if then is None or named is None else weights_hash(self._home, named)
        return now is not None and now != then

    def _other_target(self, run: RunFolder, recipe: Recipe) -> bool:
        """Whether the files of the target or its adapter are others than the run began with, where they are local."""
        then = _object(run.path / "target.json").get("files", {})
        for prefix, name in (("", recipe.target.model), (_ADAPTER, recipe.target.adapter)):
            of_it = {
                file.removeprefix(prefix): sha256
                for file, sha256 in then.items()
                if file.startswith(_ADAPTER) == bool(prefix)
            }
            if of_it and name is not None and not name.startswith(("asset:", "hub:")):
                if name not in self._models:
                    self._models[name] = hashes_of_model(resolve_input(name))
                if self._models[name] != of_it:
                    return True
        return False

    def _other_prompts(self, then: dict[str, str], recipe: Recipe) -> list[str]:
        stamps = [self._stamp(source) for source in (*recipe.prompts.train, *recipe.prompts.heldout)]
        if any(stamp is None for stamp in stamps) or "train" not in then:
            return []
        key = content_hash([engine.__version__, _settings(recipe), stamps])
        return _compared(key, tuple(sorted(then.items())), lambda: _now(recipe, then, repr(stamps)))

    def _stamp(self, source: PromptSource) -> Stamp | None:
        """The stamp of a source's files; None if they are not local, or are not there."""
        if source.path not in self._stamps:
            self._stamps[source.path] = None
            with contextlib.suppress(*_UNREADABLE):
                self._stamps[source.path] = _stamp_of(_files(source.path))
        return self._stamps[source.path]


def weights_hash(home: Home, name: str) -> str | None:
    """The hash of a draft's weights, from its card; None for a model that is no draft of this project.

    `name`: its folder or run.
    """
    folders = [Path(name), PROJECT_ROOT / name]
    with contextlib.suppress(DraftbenchError):
        folders.append(home.run(name) / "draft" / "best")
    with contextlib.suppress(*_UNREADABLE):
        card = next(folder / "draft.json" for folder in folders if (folder / "draft.json").exists())
        return _card_hash(card, card.stat().st_mtime_ns)
    return None


@lru_cache(maxsize=256)
def _card_hash(card: Path, changed_ns: int) -> str:
    values = read_json(card)
    return str(values.get("rounded_from") or values["weights_sha256"])


@lru_cache(maxsize=4096)
def _noted(folder: Path, stamp: Stamp) -> dict[str, str]:
    """The hashes that a run keeps of what it began with; older and half-made runs lack some."""
    began, seen = (_object(folder / name) for name in _NOTES)
    prompts = seen.get("prompts") or {}
    hashes: dict[str, Any] = {"train": began.get("train") or prompts.get("train_hash"), "heldout": began.get("heldout")}
    hashes["measured"] = None if hashes["heldout"] else prompts.get("heldout_hash")
    hashes |= {name: seen.get(f"{name}_sha256") for name in ("checkpoint", "reference")}
    return {name: str(value) for name, value in hashes.items() if value}


def _object(path: Path) -> dict[str, Any]:
    with contextlib.suppress(DraftbenchError, OSError, ValueError):
        document = read_json(path)
        return document if isinstance(document, dict) else {}
    return {}


def _files(path: str) -> list[Path]:
    """The files of a source. Raises if there are none, or they are on the hub."""
    if path.startswith("hub:"):
        raise LookupError(path)
    if path.startswith("pack:"):
        from engine.data.packs.sets import find_set, sets_folder

        file = sets_folder() / find_set(path).file_name
        if not file.exists():
            from engine.data.packs.sets import set_file

            file = set_file(path)
        return [file]
    place = resolve_input(path)
    return sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]


def _stamp_of(files: Sequence[Path]) -> Stamp:
    stamp = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            stat = file.stat()
            stamp.append((str(file), stat.st_mtime_ns, stat.st_size))
    return tuple(stamp)


def _settings(recipe: Recipe) -> Any:
    """Everything but the files that decides which prompts a run takes."""
    target = recipe.target.model_dump() if recipe.prompts.max_prompt_tokens else None
    prompts = recipe.prompts.model_dump(exclude={"domain", "scenario"})
    return [prompts, target, recipe.train.eval_prompts, recipe.measure.heldout_prompts]


def _compared(key: str, then: tuple[tuple[str, str], ...], now: Callable[[], dict[str, str]]) -> list[str]:
    """Names of the hashes that differ now; those of today are kept in the cache folder."""
    path = cache_dir() / "prompt-hashes" / f"{key[:32]}.json"
    hashes = _kept(path, path.stat().st_mtime_ns) if path.exists() else None
    if hashes is None:
        if key in _UNKNOWN:
            return []
        _UNKNOWN.add(key)  # unless what follows succeeds: a study that is waited for is looked at every second
        hashes = now()
        _UNKNOWN.discard(key)
        with contextlib.suppress(DraftbenchError, OSError):  # a cache that cannot be written to costs time only
            write_json(path, hashes)
    return [name for name, value in then if hashes.get(name, value) != value]


@lru_cache(maxsize=4096)
def _kept(path: Path, changed_ns: int) -> dict[str, str] | None:
    with contextlib.suppress(*_UNREADABLE):
        return {str(name): str(value) for name, value in read_json(path).items()}
    return None


def _now(recipe: Recipe, then: dict[str, str], stamps: str) -> dict[str, str]:
    """The hashes of the prompts that a run of the recipe would take now."""
    spec = recipe.prompts
    held = _read(_dumped(spec.heldout), spec.skip_bad, stamps)
    _, measured = split_heldout(held, recipe.train.eval_prompts, recipe.measure.heldout_prompts)
    hashes = {"heldout": prompts_hash(held), "measured": prompts_hash(measured)}
    if hashes["measured"] != then.get("measured", hashes["measured"]) and spec.max_prompt_tokens is not None:
        fit = _measurable(held, recipe)  # a look at the lengths takes seconds, and few held-out prompts are so long
        _, measured = split_heldout(fit, recipe.train.eval_prompts, recipe.measure.heldout_prompts)
        hashes["measured"] = prompts_hash(measured)
    train = _read(_dumped(spec.train), spec.skip_bad, stamps)
    if hashes["heldout"] == then.get("heldout") and spec.train_prompts is not None:
        # the first of all by rank are what the run had: so none of them was left out then, nor would be now
        first = prompts_hash(nested_subset(train, min(spec.train_prompts, len(train))))
        if first == then["train"]:
            return {**hashes, "train": first}
    return {**hashes, "train": prompts_hash(_training_prompts(train, held, recipe))}


def _dumped(sources: Sequence[PromptSource]) -> tuple[str, ...]:
    return tuple(source.model_dump_json() for source in sources)


@lru_cache(maxsize=4)
def _read(sources: tuple[str, ...], skip_bad: bool, stamps: str) -> list[Prompt]:
    return read_prompts(
        [PromptSource.model_validate_json(one) for one in sources], skip_bad=skip_bad, stored=True
    ).prompts


def _training_prompts(train: list[Prompt], held: list[Prompt], recipe: Recipe) -> list[Prompt]:
    """The training prompts of a run. Whether one is left out does not depend on the others, so few are looked at."""
    wanted = recipe.prompts.train_prompts
    for most in (len(train),) if wanted is None else (min(math.ceil(_MORE * wanted), len(train)), len(train)):
        kept = _within(nested_subset(train, most), held, recipe)
        if wanted is None or len(kept) >= wanted:
            return nested_subset(kept, wanted)
    return kept


def _within(train: list[Prompt], held: list[Prompt], recipe: Recipe) -> list[Prompt]:
    """Those that repeat no held-out prompt and are short enough."""
    from engine.data.overlap import remove_overlap  # this and what follows takes seconds to load

    kept, _ = remove_overlap(train, held)
    limit = recipe.prompts.max_prompt_tokens
    if limit is None:
        return kept
    from engine.chat.rendering import render

    tokenizer = _tokenizer(recipe.target.model_copy(update={"trust_remote_code": False}).model_dump_json())
    return [p for p in kept if len(render(tokenizer, p, context_tokens=None, max_new_tokens=0)) <= limit]


def _measurable(held: list[Prompt], recipe: Recipe) -> list[Prompt]:
    """As the run takes them: without those too long for an answer."""
    from engine.chat.rendering import measurable
    from engine.models.load import context_tokens

    spec = recipe.target.model_copy(update={"trust_remote_code": False})
    tokenizer = _tokenizer(spec.model_dump_json())
    limit, answer = recipe.prompts.max_prompt_tokens, recipe.measure.max_new_tokens
    return measurable(tokenizer, held, limit, context_tokens(spec), answer)


@lru_cache(maxsize=4)
def _tokenizer(dumped: str) -> Any:
    """The tokenizer of a target that is on this machine; nothing is fetched."""
    from engine.config.schema import ModelSpec
    from engine.models.load import load_tokenizer
    from engine.planning.outlines import at_hand

    spec = ModelSpec.model_validate_json(dumped)
    if at_hand(spec) is None:
        raise LookupError(spec.model)
    return load_tokenizer(spec)
