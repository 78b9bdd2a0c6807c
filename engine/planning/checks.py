"""Checks of a recipe before anything is started: each says what was found, and what to do if it is not right.

Vocabulary comes first, because a draft that means other tokens by the same ids wastes everything
after it. Nothing is fetched, no weights are read, and no check raises.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import psutil

from engine.catalogue import check_losses
from engine.chat.prompt import Prompt
from engine.chat.rendering import render, template_hash
from engine.chat.template_date import reads_clock
from engine.chat.turns import check_folder
from engine.config.schema import RUN_DATE, ModelSpec, Recipe
from engine.data.columns import remarks
from engine.data.overlap import Repeat, remove_overlap
from engine.data.readers import PromptSet, read_prompts
from engine.data.subsets import nested_subset, split_heldout
from engine.decode.bare import told_of_folder
from engine.errors import DraftbenchError, first_line
from engine.models.adapter import other_base
from engine.models.draft import Card, read_card
from engine.models.embeddings import stored_embeddings_hash, touches_embeddings
from engine.models.head import text_config
from engine.models.load import load_tokenizer, model_fingerprint, resolve_device, resolve_dtype
from engine.models.locate import locate_adapter, locate_model
from engine.models.vocabulary import check_vocabulary
from engine.numbers import readable_bytes
from engine.paths import Home
from engine.planning.estimate import Estimate, at_hand, estimate
from engine.planning.fitness import (
    check_draft,
    check_target,
    draft_shapes,
    needs_own_code,
    own_code_is_needed,
    target_shapes,
    tokenizer_needs_own_code,
)
from engine.runs.drafts import draft_folder
from engine.runs.folder import RunFolder
from engine.served.client import listed_models, unknown_model

__all__ = ["Check", "Estimate", "checks", "estimate"]

State = Literal["ok", "warning", "failed"]
_LONGEST = 2000  # prompts whose tokens are counted: the longest in characters
_SPARE_BYTES = 500_000_000  # that must stay free on the disk


@dataclass(frozen=True)
class Check:
    """One thing looked at. A warning does not keep a run from starting, a failure does."""

    name: str
    state: State
    found: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        return self.state != "failed"


def checks(home: Home, recipe: Recipe) -> list[Check]:
    """Every check in order, each made even if an earlier one failed."""
    return [_made(name, look) for name, look in _Preflight(home, recipe).looks().items()]


def _made(name: str, look: Callable[[], tuple[State, str, str]]) -> Check:
    try:
        return Check(name, *look())
    except DraftbenchError as error:
        found = f"{error.what} ({error.why})" if error.why else error.what
        return Check(name, "failed", found, error.fix)
    except Exception as error:  # a stranger's model can break a library in many ways; the page must still be drawn
        return Check(
            name, "failed", f"{type(error).__name__}: {first_line(error)}", "look at the model and the prompts it names"
        )


class _Preflight:
    """What the checks look at, read once."""

    def __init__(self, home: Home, recipe: Recipe) -> None:
        self.home, self.recipe = home, recipe

    def looks(self) -> dict[str, Callable[[], tuple[State, str, str]]]:
        looks = {
            "vocabulary": self.vocabulary,
            "target": self.target,
            "draft": self.draft,
            "loss": self.loss,
            "chat template": self.chat_template,
            "end of turn": self.end_of_turn,
            "generation settings": self.generation,
            "training prompts": lambda: self.source("train"),
            "held-out prompts": lambda: self.source("heldout"),
            "overlap": self.overlap,
            "prompt length": self.length,
            "remote code": self.remote_code,
            "device": self.device,
            "memory": self.memory,
            "disk": self.disk,
        }
        return looks if self.recipe.capture.server is None else {**looks, "server": self.server}

    @cached_property
    def tokenizer(self) -> Any:
        """The target's, read without running code that ships with it."""
        return load_tokenizer(self.recipe.target.model_copy(update={"trust_remote_code": False}))

    @cached_property
    def config(self) -> Any:
        return text_config(self.outline)

    @cached_property
    def outline(self) -> Any:
        """The target without its weights, built from Transformers' own code alone."""
        return target_shapes(self.recipe.target)

    @cached_property
    def fetched(self) -> bool:
        return at_hand(self.recipe.target) is not None

    @cached_property
    def estimate(self) -> Estimate:
        return estimate(self.home, self.recipe)

    @cached_property
    def _sets(self) -> dict[str, PromptSet | DraftbenchError]:
        spec = self.recipe.prompts
        found: dict[str, PromptSet | DraftbenchError] = {}
        for name, sources in (("train", spec.train), ("heldout", spec.heldout)):
            try:
                found[name] = read_prompts(sources, skip_bad=True)
            except DraftbenchError as error:
                found[name] = error
        return found

    def prompts(self, which: str) -> PromptSet:
        found = self._sets[which]
        if isinstance(found, DraftbenchError):
            raise found
        return found

    @cached_property
    def _without_overlap(self) -> tuple[list[Prompt], list[Repeat]]:
        return remove_overlap(self.prompts("train").prompts, self.prompts("heldout").prompts)

    def _trained_on(self) -> list[Prompt]:
        """What the run will train on, before long prompts are left out."""
        spec = self.recipe.prompts
        if spec.train_prompts is None or spec.max_prompt_tokens is not None:  # then the length decides who is chosen
            return self.prompts("train").prompts
        kept, _ = self._without_overlap
        return nested_subset(kept, min(spec.train_prompts, len(kept)))  # too few are the overlap's to tell

    def readable(self) -> bool:
        return not any(isinstance(found, DraftbenchError) for found in self._sets.values())

    def vocabulary(self) -> tuple[State, str, str]:
        name = self.recipe.draft.checkpoint
        if name is None:
            return "ok", "the draft is made from the target and uses its tokenizer", ""
        if not self.fetched:
            return self._later()
        if tokenizer_needs_own_code(self.recipe.target):
            return self._own_code()
        folder = draft_folder(self.home, name)
        if folder is not None:
            return self._vocabulary_of_draft(read_card(folder), name)
        other = ModelSpec(model=name)
        if at_hand(other) is None:
            return "warning", f"{name} is not on this machine yet: it is compared when the run begins", ""
        check_vocabulary(self.tokenizer, load_tokenizer(other))
        return "ok", f"{len(self.tokenizer):,} ids of {name} mean the same tokens as the target's", ""

    def _vocabulary_of_draft(self, card: Card, name: str) -> tuple[State, str, str]:
        """A draft of this project was made for one target, which its card names."""
        if card.info.target_fingerprint == model_fingerprint(self.recipe.target):
            return "ok", f"{name} was made for this very target", ""
        known = card.info.embeddings_hash
        adapter = self.recipe.target.adapter
        kept = adapter is None or not touches_embeddings(locate_adapter(adapter))
        if known and kept and known == stored_embeddings_hash(locate_model(self.recipe.target)):
            return "ok", f"{name} was made for a target with the same embeddings", ""
        if card.info.share_embeddings:
            raise DraftbenchError(
                f"{name} shares its embeddings with another target",
                "they are not stored with it",
                "use it with its own target, or `draftbench export` it and name the exported folder",
            )
        if RunFolder.exists(self.home, name):
            check_vocabulary(self.tokenizer, load_tokenizer(RunFolder.open(self.home, name).recipe().target))
            return "ok", f"{name} was made for another target with the same vocabulary", ""
        rows = card.config.get("vocab_size")
        state: State = "warning" if rows == self.config.vocab_size else "failed"
        return state, f"{name} was made for another target; it has {rows:,} ids", "use a draft of the target's family"

    def _later(self) -> tuple[State, str, str]:
        name = self.recipe.target.model
        return (
            "warning",
            f"{name} is not on this machine yet: this is looked at when the run begins",
            "`draftbench fetch`",
        )

    def target(self) -> tuple[State, str, str]:
        if not self.fetched:
            return self._later()
        if needs_own_code(self.recipe.target):
            return self._own_code()
        return self._base_of_adapter() or ("ok", check_target(self.recipe, self.outline), "")

    def _base_of_adapter(self) -> tuple[State, str, str] | None:
        spec = self.recipe.target
        named = other_base(locate_adapter(spec.adapter), spec.model) if spec.adapter is not None else None
        if named is None:
            return None
        found = f"{check_target(self.recipe, self.outline)}; the adapter names {named} as its base"
        return "warning", found, f"make sure that {spec.model} is that model: any base of the same shape would load"

    def draft(self) -> tuple[State, str, str]:
        if not self.fetched:
            return self._later()
        if needs_own_code(self.recipe.target):
            return self._own_code()
        if self.recipe.draft.checkpoint is not None and draft_shapes(self.home, self.recipe, self.outline) is None:
            name = self.recipe.draft.checkpoint
            return "warning", f"{name} is not on this machine yet: it is looked at when the run begins", ""
        return "ok", check_draft(self.home, self.recipe, self.outline), ""

    def _own_code(self) -> tuple[State, str, str]:
        """Of a target that is code of its own: the pages' process does not run it."""
        name = self.recipe.target.model
        if not self.recipe.target.trust_remote_code:
            raise own_code_is_needed(name)
        found = f"{name} is code that ships with it, which is not run here: this is looked at when the run begins"
        return "warning", found, ""

    def loss(self) -> tuple[State, str, str]:
        check_losses(term.name for term in self.recipe.train.loss)
        return "ok", " + ".join(term.name for term in self.recipe.train.loss), ""

    def chat_template(self) -> tuple[State, str, str]:
        if not self.fetched:
            return self._later()
        if tokenizer_needs_own_code(self.recipe.target):
            return self._own_code()
        template_hash(self.tokenizer)
        hello = Prompt("hello", ({"role": "user", "content": "Hello?"},))
        tokens = len(render(self.tokenizer, hello, context_tokens=None, max_new_tokens=0))
        told, dated = f"found; a one-word question becomes {tokens} tokens", self.recipe.target.template_date
        if reads_clock(self.tokenizer):
            told += f"; it writes the date, which is {dated or 'that of the day the run begins'}"
            if self.recipe.capture.server is None:
                return "ok", told, ""
            fix = "serve with a chat template that holds the date, and with the same one beside the target's tokenizer"
            return "warning", f"{told}; the server writes its own day's", fix
        if dated is not None and not dated.startswith(RUN_DATE):
            return "warning", f"{told}; target.template_date is not used: it reads no clock", "leave it out"
        return "ok", told, ""

    def end_of_turn(self) -> tuple[State, str, str]:
        folder = at_hand(self.recipe.target)
        return self._later() if folder is None else check_folder(folder, self.tokenizer, self.config)

    def source(self, which: str) -> tuple[State, str, str]:
        found = self.prompts(which)
        bad = f"; {len(found.bad)} bad rows" if found.bad else ""
        told = f"{len(found.prompts):,} prompts{bad}"
        said = [remark for info in found.sources for remark in remarks(info)]
        told += "".join(f"; {remark}" for remark in said)
        if found.bad and not self.recipe.prompts.skip_bad:
            first = found.bad[0]
            fix = "correct them, or set prompts.skip_bad to go on without them"
            return "failed", f"{told}, the first in {first.file}, row {first.line}: {first.reason}", fix
        if which == "heldout":
            watched, measured = split_heldout(
                found.prompts, self.recipe.train.eval_prompts, self.recipe.measure.heldout_prompts
            )
            few = len(measured) < 20
            told += f": {len(watched)} to choose the draft by, {len(measured)} to measure on"
            return ("warning", told, "with fewer than 20 the intervals are wide") if few else ("ok", told, "")
        chosen = self.recipe.prompts.train_prompts
        told += f", {chosen:,} of them to train on" if chosen else ""
        return ("warning" if found.bad else "ok"), told, ""

    def overlap(self) -> tuple[State, str, str]:
        if not self.readable():
            return "warning", "not looked at: the prompts could not be read", ""
        kept, repeats = self._without_overlap
        if not kept:
            return "failed", "every training prompt repeats a held-out one", "give other prompts to train on"
        nested_subset(kept, self.recipe.prompts.train_prompts)
        if not repeats:
            return "ok", "no training prompt repeats a held-out one", ""
        example = f", such as {repeats[0].prompt_id} of {repeats[0].repeats_id}"
        return "warning", f"{len(repeats)} training prompts repeat a held-out one and are left out{example}", ""

    def length(self) -> tuple[State, str, str]:
        if not self.readable():
            return "warning", "not looked at: the prompts could not be read", ""
        if not self.fetched:
            return self._later()
        if needs_own_code(self.recipe.target) or tokenizer_needs_own_code(self.recipe.target):
            return self._own_code()
        recipe, context = self.recipe, getattr(self.config, "max_position_embeddings", None)
        limit = recipe.prompts.max_prompt_tokens
        train = self._tokens(self._trained_on())
        left_out = sum(n > limit for n in train) if limit else 0
        train = [n for n in train if not limit or n <= limit]
        heldout = self._tokens(self.prompts("heldout").prompts)
        told = f"the longest has {max([*train, *heldout], default=0):,} tokens, the context {context or 'no limit'}"
        told += f"; {left_out} longer than prompts.max_prompt_tokens are left out" if left_out else ""
        if left_out and not train and left_out == len(self._trained_on()):
            return "failed", f"no training prompt is left: {told}", "raise prompts.max_prompt_tokens"
        if context is None:
            return "ok", told, ""
        long_train = sum(n + recipe.capture.max_new_tokens > context for n in train)
        long_heldout = sum(n + recipe.measure.max_new_tokens > context for n in heldout)
        if limit and (left_out := sum(n > max(limit, context - recipe.measure.max_new_tokens) for n in heldout)):
            long_heldout -= left_out
            told += f"; {left_out} held-out ones leave no room for an answer and are left out"
            if len(self.prompts("heldout").prompts) - left_out < 2:
                return "failed", f"too few held-out prompts are left: {told}", "lower measure.max_new_tokens"
        if not long_train + long_heldout:
            return "ok", told, ""
        fix = "lower max_new_tokens, set prompts.max_prompt_tokens, or take the held-out ones out"
        return (
            "failed",
            f"{long_train} training and {long_heldout} held-out prompts are too long for an answer: {told}",
            fix,
        )

    def _tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        longest = sorted(prompts, key=lambda p: sum(len(str(m["content"])) for m in p.messages), reverse=True)[
            :_LONGEST
        ]
        return [len(render(self.tokenizer, p, context_tokens=None, max_new_tokens=0)) for p in longest]

    def remote_code(self) -> tuple[State, str, str]:
        if not self.recipe.target.trust_remote_code:
            return "ok", "only Transformers' own code runs", ""
        found = f"Python code that ships with {self.recipe.target.model} will run with your rights"
        return "warning", found, "go on only if you trust its author; else set target.trust_remote_code to false"

    def generation(self) -> tuple[State, str, str]:
        """What the target's own generation settings would change: everything here generates without them."""
        folder = at_hand(self.recipe.target)
        asked = "" if folder is None else told_of_folder(folder)
        if asked:
            return (
                "warning",
                asked,
                "serve it without them (vLLM: --generation-config vllm) to get what is measured here",
            )
        return "ok", "not fetched yet" if folder is None else "none that would change the text", ""

    def device(self) -> tuple[State, str, str]:
        device = resolve_device(self.recipe.target.device)
        dtype = str(resolve_dtype(self.recipe.target.dtype, device)).removeprefix("torch.")
        return "ok", f"{device}, the target in {dtype}", ""

    def server(self) -> tuple[State, str, str]:
        """Whether the server that gives the training answers is there, and has the model."""
        spec = self.recipe.capture.server
        assert spec is not None
        names = listed_models(spec)
        if not names:
            return (
                "warning",
                f"{spec.base_url} is there, but does not list {spec.model}: the first answer will tell",
                "",
            )
        if spec.model not in names:
            raise unknown_model(spec, names)
        return "ok", f"{spec.base_url} has {spec.model}", ""

    def memory(self) -> tuple[State, str, str]:
        need = self.estimate.memory_bytes
        if need is None:
            return "warning", self.estimate.memory_unknown, ""
        free = _free_memory(resolve_device(self.recipe.target.device).type)
        told = f"about {readable_bytes(need)} at most, {readable_bytes(free)} free"
        fix = "lower train.micro_batch_tokens and capture.batch_size (same result), or use a smaller target"
        return ("ok", told, "") if need < free else ("warning", told, fix)

    def disk(self) -> tuple[State, str, str]:
        need = self.estimate.disk_bytes
        place = next(p for p in (self.home.root, *self.home.root.absolute().parents) if p.exists())
        free = shutil.disk_usage(place).free
        if need is None:
            return "warning", f"{self.estimate.disk_unknown}; {readable_bytes(free)} free", ""
        told = f"at most {readable_bytes(need)}, {readable_bytes(free)} free"
        if need + _SPARE_BYTES < free:
            return "ok", told, ""
        return "failed", told, "free some space, use capture.signal: compact, or point DRAFTBENCH_HOME at a larger disk"


def _free_memory(device: str) -> int:
    """Bytes that can still be taken: of the accelerator if there is one."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)
