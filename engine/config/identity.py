"""What of a recipe decides neither the draft's weights nor its exact acceptance: the one table of it.

Findings compare two runs, and a study knows a cell again, by what is left without these. Evaluations
during training (`eval_every`, `eval_prompts`) are not here: they choose which step's weights are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.config.schema import LOSS_PARAMETERS, RUN_DATE

Values = Mapping[str, Any]

LABELS = frozenset({"name", "tags", "notes"})
# How a machine gets there: batches of another size, pauses, and what is kept for a resume.
_PACE = {
    "capture": frozenset({"batch_size"}),
    "train": frozenset({"micro_batch_tokens", "checkpoint_every"}),
    # what is decoded, timed, certified and resampled stands beside the exact rate
    "measure": frozenset({"num_draft_tokens", "adaptive"}),
}
_OTHER_RATES = ("speed_", "trace_", "certificate_", "bootstrap_")  # of `measure`
_SERVER = ("base_url", "model")  # who answers; how it is asked changes nothing

# A stream is passed once, in its own intervals and as many steps as these make.
_UNUSED_KEYS = {"online": frozenset({"epochs", "max_steps", "batch_size"})}
_ASSISTED = frozenset({"anchors", "block_tokens", "decay"})
# Sections of `train` that only some runs use.
_USED: Mapping[str, Callable[[Values], bool]] = {
    "online": lambda train: train.get("mode") == "online",
    "on_policy": lambda train: train.get("mode") == "on_policy",
    "selection": lambda train: (train.get("selection") or {}).get("share", 1) < 1,
}
SECTIONS = tuple(_USED)


def without_idle(values: Values) -> dict[str, Any]:
    """A copy of a recipe's values without labels, what its mode does not use, and what changes no exact rate.

    `values`: as `Recipe.model_dump` gives them or as config.yaml holds them; keys and sections that an
    older recipe lacks may be missing. Nothing is filled in, and nothing in `values` is changed.
    """
    found = {key: value for key, value in values.items() if key not in LABELS}
    for section, clean in _SECTIONS.items():
        if isinstance(found.get(section), Mapping):
            found[section] = clean(found[section])
    return found


def _target(target: Values) -> dict[str, Any]:
    """Without the date of a template that nobody chose: it is the day the run began, or not written at all."""
    chosen = not str(target.get("template_date") or RUN_DATE).startswith(RUN_DATE)
    return {key: value for key, value in target.items() if chosen or key != "template_date"}


def _draft(draft: Values) -> dict[str, Any]:
    """Weights from a checkpoint come with their own layers."""
    idle = {"layers"} if draft.get("init") == "checkpoint" else set()
    return {key: value for key, value in draft.items() if key not in idle}


def _capture(capture: Values) -> dict[str, Any]:
    idle = _PACE["capture"] | (frozenset() if capture.get("signal") == "compact" else {"signal_top_k"})
    found = {key: value for key, value in capture.items() if key not in idle}
    server = found.pop("server", None)
    return found | ({"server": {key: server.get(key) for key in _SERVER}} if server else {})


def _train(train: Values) -> dict[str, Any]:
    idle = _PACE["train"] | _UNUSED_KEYS.get(str(train.get("mode")), frozenset())
    idle |= {section for section, used in _USED.items() if not used(train)}
    found = {key: value for key, value in train.items() if key not in idle}
    on_policy = found.get("on_policy")
    if on_policy and on_policy.get("form") == "sampled":
        found["on_policy"] = {key: value for key, value in on_policy.items() if key not in _ASSISTED}
    if isinstance(found.get("loss"), list):
        found["loss"] = [_term(term) for term in found["loss"]]
    return found


def _term(term: Any) -> Any:
    """A loss without the parameters of others."""
    if not isinstance(term, Mapping):
        return term
    others = {parameter for name, parameter in LOSS_PARAMETERS.items() if name != term.get("name")}
    return {key: value for key, value in term.items() if key not in others}


def _measure(measure: Values) -> dict[str, Any]:
    """Without `against` where it says what was always so: recipes of before it are the same recipes."""
    idle = _PACE["measure"] | ({"against"} if measure.get("against") == "model" else set())
    return {key: value for key, value in measure.items() if key not in idle and not key.startswith(_OTHER_RATES)}


_SECTIONS: Mapping[str, Callable[[Values], dict[str, Any]]] = {
    "target": _target,
    "draft": _draft,
    "capture": _capture,
    "train": _train,
    "measure": _measure,
}
