"""The claims of "Training Domain Draft Models for Speculative Decoding" (arXiv 2503.07807) as comparisons of runs.

Each claim says which facts of two runs may differ and what makes the one and the other side;
all other facts must be equal. What is known of the paper is its abstract and captions, so a
band is what those state, and whether it is relative or absolute is not known but for one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from engine.config.identity import SECTIONS, decisive
from engine.config.schema import LossTerm
from engine.records.provenance import Provenance

Facts = Mapping[str, Any]

# Facts that tell which of the repetitions it is. What changes no weight and no exact rate is no fact: see `harmless`.
SEEDS = ("train.seed", "capture.seed")
_SIGNAL = ("signal", "signal_top_k")  # of `capture`: how it is stored, which black box does without
_MEASURED_ON = ("top_p", "top_k", "max_new_tokens", "seed")
# Another mode of training sets its own schedule: all of `train` may differ then, but for these.
ANY_TRAINING = "train.*"
_SAME_TRAINING = {"train.mode", "train.seed", "train.distill_temperature", "train.precision"}


@dataclass(frozen=True)
class Claim:
    """One claim. The measured effect is the exact acceptance of `other` over that of `base`, less one."""

    key: str
    number: str  # among the paper's five; 'also' for what it says besides
    title: str
    statement: str
    base: str  # words for the two sides
    other: str
    is_base: Callable[[Facts], bool]
    is_other: Callable[[Facts], bool]
    varies: frozenset[str]
    sign: int  # of the effect that the paper reports
    band: tuple[float, float] | None = None  # of the effect, as the paper states it
    band_of: tuple[str, ...] = ("relative", "absolute")  # which differences the band may mean
    breadth: tuple[str, int] = ("", 0)  # how many different ones of what it must be seen in to be called reproduced
    paired: bool = True
    must_differ: frozenset[str] = frozenset()  # facts without whose difference the two sides are one and the same
    by_effort: bool = False  # judged at each kind of effort (see `efforts`), the headline at the modes' own schedules

    def may_differ(self, fact: str) -> bool:
        """Whether the two runs of a pair may differ in this fact."""
        return fact in self.varies or (ANY_TRAINING in self.varies and of_schedule(fact))


def of_schedule(fact: str) -> bool:
    """Whether a fact belongs to how long and in which steps a draft was trained, rather than to what it was taught."""
    return fact.startswith("train.") and fact not in _SAME_TRAINING


def facts_of(config: Mapping[str, Any], provenance: Provenance) -> dict[str, Any]:
    """What decides whether two runs may be compared: dotted name -> value, hashes of files rather than their paths."""
    config = decisive(config)
    prompts, seen = config.get("prompts", {}), provenance.prompts
    measure, train = config.get("measure", {}), config.get("train", {})
    facts: dict[str, Any] = {
        "target": provenance.target_fingerprint or _text(config.get("target")),
        "domain": prompts.get("domain"),
        "scenario": prompts.get("scenario"),
        "train_prompts": seen.train_hash or _text(prompts.get("train")),
        "n_train": seen.train,
        "heldout": seen.heldout_hash or _text(prompts.get("heldout")),
        "dtype": provenance.target_dtype,
        "device": (provenance.device or "").partition(":")[0],
        "loss": loss_name(train.get("loss", [])),
        "train.mode": train.get("mode"),
    }
    # a key without a value is as good as one that an older recipe never had
    facts |= {f"draft.{key}": _text(value) for key, value in config.get("draft", {}).items() if value is not None}
    if provenance.checkpoint_sha256:  # the weights themselves, rather than where they lay
        facts["draft.checkpoint"] = provenance.checkpoint_sha256
    facts |= _capture_facts(config.get("capture", {}))
    facts |= _training_facts(train)
    return facts | {f"measure.{key}": measure.get(key) for key in _MEASURED_ON}


def _capture_facts(capture: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the text of the answers. Of a server, who answers."""
    facts = {f"capture.{key}": value for key, value in capture.items() if key not in ("server", *_SIGNAL)}
    return facts | {f"capture.server.{key}": value for key, value in capture.get("server", {}).items()}


def _training_facts(train: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of training that this run used, those of its mode's own section too."""
    facts = {key: value for key, value in train.items() if key not in {"mode", "loss", *SECTIONS}}
    for name in SECTIONS:
        facts |= {f"{name}.{key}": value for key, value in (train.get(name) or {}).items()}
    return {f"train.{key}": _text(value) for key, value in facts.items()}


def loss_name(terms: Any) -> str:
    """The name of a loss that is one term with its usual parameters; else the whole of it."""
    if isinstance(terms, list) and len(terms) == 1 and isinstance(terms[0], dict):
        with contextlib.suppress(ValidationError):
            term = LossTerm.model_validate(terms[0])
            if term.weight == 1.0 and term.own is None:
                return term.name
    return _text(terms)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _loss(name: str) -> Callable[[Facts], bool]:
    return lambda facts: facts["loss"] == name


def _is(key: str, value: Any) -> Callable[[Facts], bool]:
    return lambda facts: facts[key] == value


GENERIC = Claim(
    "generic",
    "1",
    "A generic draft loses acceptance on a domain target",
    "The acceptance of a draft made for a general model drops on a domain model, by up to 38% (a second-hand figure).",
    "the draft on its own general target",
    "the same draft on a domain target",
    lambda facts: facts["domain"] == "general",
    lambda facts: facts["domain"] != "general" and facts["draft.init"] == "checkpoint",
    frozenset(),
    sign=-1,
    band=(-0.38, 0.0),
    paired=False,
)
MODE = Claim(
    "offline",
    "2",
    "Offline training beats online training",
    "Offline distillation outperforms online distillation by 11% to 25%.",
    "online",
    "offline",
    _is("train.mode", "online"),
    _is("train.mode", "offline"),
    frozenset({"train.mode", ANY_TRAINING}),
    sign=1,
    band=(0.11, 0.25),
    by_effort=True,
)
SUPERVISION = Claim(
    "white_box",
    "3",
    "White box beats black box",
    "A draft that sees the target's distribution outperforms one that sees only its text by 2% to 10%.",
    "sft (black box)",
    "forward_kl (white box)",
    _loss("sft"),
    _loss("forward_kl"),
    frozenset({"loss"}),
    sign=1,
    band=(0.02, 0.10),
)
SCENARIO = Claim(
    "synthetic",
    "4",
    "Synthetic queries nearly replace historical ones",
    "A draft trained on synthetic queries reaches 80% to 93% of one trained on the users' own.",
    "historical queries",
    "synthetic queries",
    _is("scenario", "historical"),
    _is("scenario", "synthetic"),
    frozenset({"scenario", "train_prompts", "n_train"}),
    sign=-1,
    band=(-0.20, -0.07),
    band_of=("relative",),  # "80% to 93% of" is a ratio
    must_differ=frozenset({"train_prompts"}),  # or `scenario` is only another label on the same prompts
)
SIZE = Claim(
    "size",
    "5",
    "More training queries help, in every domain",
    "Acceptance grows with the number of training queries, in every domain.",
    "fewest queries",
    "most queries",
    lambda facts: bool(facts["n_train"]),
    lambda facts: bool(facts["n_train"]),
    frozenset({"train_prompts", "n_train"}),
    sign=1,
    breadth=("domain", 2),
)
LEAD = Claim(
    "lead",
    "5",
    "Offline's lead over online grows with the data",
    "The lead of offline forward KL over online forward KL grows with the number of training queries.",
    "lead with the fewest queries",
    "lead with the most queries",
    lambda facts: facts["loss"] == "forward_kl" and facts["train.mode"] == "online",
    lambda facts: facts["loss"] == "forward_kl" and facts["train.mode"] == "offline",
    frozenset({"train_prompts", "n_train", *MODE.varies}),
    sign=1,
    by_effort=True,
)
BEST_LOSS = Claim(
    "best_loss",
    "also",
    "Forward KL is the best loss",
    "Of the losses that see the target's distribution, forward KL gives the highest acceptance.",
    "another white-box loss",
    "forward_kl",
    lambda facts: facts["loss"] not in ("forward_kl", "sft"),
    _loss("forward_kl"),
    frozenset({"loss"}),
    sign=1,
    breadth=("against", 2),
)

CLAIMS: dict[str, Claim] = {claim.key: claim for claim in (GENERIC, MODE, SUPERVISION, SCENARIO, SIZE, LEAD, BEST_LOSS)}
