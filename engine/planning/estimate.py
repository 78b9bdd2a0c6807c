"""The cost of a run before it begins: memory from configurations, disk from planned captures, time from earlier runs.

No weights are read and nothing is fetched. What cannot be known is reported as unknown, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from engine.capture.batch_size import key_value_bytes
from engine.capture.plan import CapturePlan
from engine.config.schema import ModelSpec, Recipe
from engine.distill.chunked import closed_chunk_size
from engine.distill.fused import has_fused_form
from engine.distill.schedule import answers_per_step, forward_tokens, planned_steps
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_lines
from engine.models.draft import read_card, shared_modules
from engine.models.fused_linears import packs
from engine.models.head import chunk_size, text_config
from engine.models.load import LoadedModel, resolve_device
from engine.models.lora import adapted_layers, adapter_size
from engine.paths import Home
from engine.planning.earlier_runs import best_pace, differences
from engine.planning.outlines import draft_shapes, target_outline, target_sizes
from engine.planning.probe import kept_probe, seconds_of
from engine.progress import PARTS
from engine.records.capture import CaptureCounts
from engine.runs.drafts import draft_folder
from engine.runs.plan import RunPlan, plan_run, split_prompts
from engine.served.capture import is_served

SERVED = "answers of the server"  # a part of the time
NEVER_RUN = "not known yet: no earlier run has trained a draft for this target here"
_FLOAT32 = 4  # bytes
_PASSING = "checkpoints"  # the part of the disk that is free again after the training
_LOGIT_TENSORS = 8  # tensors of one chunk's size that a divergence and its gradient hold at once
_TEXT_BYTES = 12  # of answers.jsonl, per token


@dataclass(frozen=True)
class Estimate:
    """Bytes and seconds by part, each part named for people; None and a reason where nothing is known."""

    memory: dict[str, int] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    memory_unknown: str = ""
    disk_unknown: str = ""
    seconds_unknown: str = ""
    based_on: str = ""  # the run whose speed the time is scaled from
    probed: bool = False  # the time follows from `engine.planning.probe` instead
    differs: tuple[str, ...] = ()  # what that run did otherwise
    seconds_missing: tuple[str, ...] = ()  # parts of the work whose time that run does not tell

    @property
    def memory_bytes(self) -> int | None:
        """Most memory held at once: what lies there throughout, and the larger of training and measuring."""
        if not self.memory:
            return None
        phases = [self.memory.get(name, 0) for name in ("capture", "training", "measurement")]
        return self.memory["target"] + max(phases)

    @property
    def lasting(self) -> dict[str, int]:
        """Bytes on disk that stay, by part."""
        return {part: size for part, size in self.disk.items() if part != _PASSING}

    @property
    def passing_bytes(self) -> int:
        """Bytes on disk only while the run trains: of several runs, which train one at a time, needed once."""
        return self.disk.get(_PASSING, 0)

    @property
    def disk_bytes(self) -> int | None:
        return sum(self.disk.values()) if self.disk else None


def estimate(home: Home, recipe: Recipe, plan: RunPlan | None = None) -> Estimate:
    """Time, disk and memory that a run of this recipe will take on this machine. Never raises for what is unknown.

    `plan`: its captures, where they are planned already; reading and rendering the prompts takes seconds.
    """
    if recipe.times_server:
        unknown = f"not known: it takes as long as {recipe.target_label} takes to answer"
        return Estimate(memory_unknown=unknown, disk_unknown=unknown, seconds_unknown=unknown)
    try:
        with boundary(f"{recipe.target.model} or its draft cannot be sized", "see the checks of target and draft"):
            target = target_outline(recipe.target)
            if target is None:
                unknown = f"not known until {recipe.target.model} is on this machine: it is fetched when the run begins"
                return Estimate(memory_unknown=unknown, disk_unknown=unknown, seconds_unknown=unknown)
            draft = draft_parameters(home, recipe, target) if recipe.has_draft else DraftSize(0, 0, 0, 0)
            memory = _memory(recipe, target, draft)
    except DraftbenchError as error:
        unknown = f"not known: {error.what}" + (f" ({error.why})" if error.why else "")
        return Estimate(memory_unknown=unknown, disk_unknown=unknown, seconds_unknown=unknown)
    try:
        plan = plan_run(home.captures, recipe, target, split_prompts(recipe, target)) if plan is None else plan
    except DraftbenchError as error:
        unknown = f"not known: {error.what}"
        return Estimate(memory=memory, disk_unknown=unknown, seconds_unknown=unknown)
    disk = {"captures": sum(_still_to_write(capture) for capture in plan.captures.values())}
    disk |= _draft_files(draft) if recipe.trains else {}
    if plan.training is not None and plan.decodes_training:
        disk["stream"] = _most_to_write(plan.training)
    return _with_time(home, recipe, plan, Estimate(memory=memory, disk=disk))


def capture_cost(home: Home, recipe: Recipe, plan: CapturePlan) -> tuple[int, float | None]:
    """Bytes and seconds that a capture still takes; None where no earlier run says how fast they are made."""
    size, share = _still_to_write(plan), _open_share(plan)
    pace = best_pace(home, recipe)
    if not share:
        return size, 0.0
    if pace is None or not pace.capture_tokens_s:
        return size, None
    return size, _tokens(plan, pace.fill or 1.0) * share / pace.capture_tokens_s


@dataclass(frozen=True)
class DraftSize:
    """Parameters of a draft: in all, those that are trained, and what a position costs to train through.

    `adapted`: weights that an adapter changes, which are held once more without it. `shared`: of the draft that the
    run keeps beside its adapter, unless it can be a link.
    """

    total: int
    trained: int
    layers: int
    activation_values: int  # per token
    adapted: int = 0
    shared: int = 0


def draft_parameters(home: Home, recipe: Recipe, target: LoadedModel) -> DraftSize:
    """The size of the draft that the recipe asks for; raises if its layers or checkpoint do not fit."""
    model = draft_shapes(home, recipe, target.model)
    if model is None:
        raise DraftbenchError(f"{recipe.draft.checkpoint} is not on this machine yet")
    total = sum(p.numel() for p in model.parameters())
    shared = {id(p): p.numel() for module in shared_modules(model) for p in module.parameters()}
    trained = total - (sum(shared.values()) if recipe.draft.share_embeddings else 0)
    config = text_config(model)
    # inputs and outputs that a layer's backward pass needs; agrees with benchmarks/training_memory.py within a quarter
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    width, inner = int(config.hidden_size), max(inner) if isinstance(inner, (list, tuple)) else int(inner)
    layers = int(config.num_hidden_layers)
    size = DraftSize(total, trained, layers, layers * (8 * width + 4 * inner))
    return size if recipe.draft.lora is None else _adapted(size, home, recipe, model)


def _adapted(size: DraftSize, home: Home, recipe: Recipe, model: Any) -> DraftSize:
    """The size of a draft of which an adapter alone is trained."""
    spec = recipe.draft.lora
    assert spec is not None
    weights = adapter_size(model, spec)
    layers = adapted_layers(model, spec.modules, key="draft.lora.modules").values()
    places = len(layers) * spec.rank  # each update also keeps what its down projection gives
    folder = None if recipe.draft.checkpoint is None else draft_folder(home, recipe.draft.checkpoint)
    linked = folder is not None and read_card(folder).info.lora is None
    return replace(
        size,
        trained=weights,
        activation_values=size.activation_values + places,
        adapted=sum(layer.weight.numel() for layer in layers),
        shared=0 if linked else size.trained,
    )


def _memory(recipe: Recipe, target: LoadedModel, draft: DraftSize) -> dict[str, int]:
    """Bytes by part; training and measurement do not happen at once."""
    parameters = sum(p.numel() for p in target.model.parameters())
    device, rows = resolve_device(recipe.target.device), int(target.model.get_output_embeddings().weight.shape[0])
    spread = recipe.target.device_map is not None
    copies = 2 if packs(device, target.dtype) else 1  # with the packed copies of linear layers
    size = target.dtype.itemsize * copies
    held = target_bytes(recipe.target, target.model)
    plain = target_sizes(recipe.target, target.model).total == parameters * target.dtype.itemsize
    positions = forward_tokens(recipe.train, device)
    values = chunk_size(rows, device) * rows * _LOGIT_TENSORS
    if has_fused_form(recipe.train.loss):
        values = closed_chunk_size(rows, device) * rows * 2  # the logits of target and draft
    weights = draft.total * (_FLOAT32 + size) + draft.trained * _FLOAT32 * 3  # also gradients and AdamW's two moments
    if recipe.draft.lora is not None:  # the adapter beside the merged draft, and the adapted weights without it
        weights += draft.trained * (_FLOAT32 + size) + draft.adapted * _FLOAT32
    activations = positions * draft.activation_values * _FLOAT32 + values * _FLOAT32
    # for the losslessness certificate; that of a target which is spread goes where there is room then
    exact_copy = parameters * _FLOAT32 // recipe.target.tensor_parallel
    if spread or (target.dtype == torch.float32 and plain):
        exact_copy = 0
    parts = {
        "target": held * (copies if plain and not spread and recipe.target.tensor_parallel == 1 else 1),
        "capture": _cache_bytes(target, recipe) + draft.total * _FLOAT32,
        "training": weights + activations,
        # untrained and trained draft, each as served and in float32
        "measurement": (exact_copy if recipe.has_draft else 0)
        + 2 * draft.total * (size + (_FLOAT32 if exact_copy else 0))
        + _cache_bytes(target, recipe),
    }
    return parts if recipe.trains else {**parts, "training": 0}


def target_bytes(spec: ModelSpec, shapes: Any) -> int:
    """Bytes of a target's weights in memory: as in its files where its layers stay quantised.

    Of a target that is split, those of one process: its part of the layers, and both ends.
    """
    sizes = target_sizes(spec, shapes)
    return sizes.ends + sum(sizes.layers) // spec.tensor_parallel


def _cache_bytes(target: LoadedModel, recipe: Recipe) -> int:
    """The keys and values of one full batch of answers, prompts of ordinary length counted as half as long."""
    tokens = recipe.capture.side_by_side * recipe.capture.max_new_tokens * 3 // 2
    return key_value_bytes(target.model) * tokens


def _most_to_write(plan: CapturePlan) -> int:
    """Bytes of signal and text, if every answer is as long as it may be."""
    return plan.most_bytes + plan.most_tokens * _TEXT_BYTES


def _still_to_write(plan: CapturePlan) -> int:
    """Bytes of a capture that are not there yet, if every answer were as long as it may be."""
    if (plan.folder / "done.json").exists():
        return 0
    path = plan.folder / "signal.bin"
    return max(0, _most_to_write(plan) - (path.stat().st_size if path.exists() else 0))


def _draft_files(draft: DraftSize) -> dict[str, int]:
    own = draft.trained * _FLOAT32
    # the newest checkpoint and the one being written, both gone after the training; best and last draft
    return {_PASSING: 2 * 3 * own, "drafts": 2 * own + draft.shared * _FLOAT32}


def _with_time(home: Home, recipe: Recipe, plan: RunPlan, known: Estimate) -> Estimate:
    """The estimate with seconds, if a run of this target was ever trained on this machine."""
    pace = best_pace(home, recipe)
    if pace is None:
        probe = kept_probe(home, recipe)
        if probe is None:
            return replace(known, seconds_unknown=NEVER_RUN)
        seconds = seconds_of(probe, recipe, plan, _open_share)
        missing = [part for part in PARTS if part not in seconds and (recipe.trains or part != "training")]
        missing += [SERVED] if any(is_served(one) and _open_share(one) for one in plan.captures.values()) else []
        return replace(known, seconds=seconds, probed=True, seconds_missing=tuple(missing))
    fill = pace.fill or 1.0
    seconds = {}
    captures = plan.captures.values()
    if pace.capture_tokens_s:
        open_tokens = sum(_tokens(one, fill) * _open_share(one) for one in captures if not is_served(one))
        seconds["capture"] = open_tokens / pace.capture_tokens_s
    asked = sum(len(one.prompts) * _open_share(one) for one in captures if is_served(one))
    server = recipe.capture.server
    if server is not None and server.requests_per_minute and asked:  # how fast it answers is not known
        seconds[SERVED] = 60 * asked / server.requests_per_minute
    if pace.train_tokens_s and plan.training is not None:
        answers, tokens = len(plan.training.prompts), _tokens(plan.training, fill)
        steps = planned_steps(answers, recipe.train, tokens)
        per_step = answers_per_step(answers, recipe.train, tokens) * tokens / max(1, answers)
        seconds["training"] = steps * per_step / pace.train_tokens_s
    if pace.measure_s and pace.recipe.measure.against == recipe.measure.against:
        seconds["measurement"] = pace.measure_s * _measure_work(recipe) / _measure_work(pace.recipe)
    parts = (
        "capture",
        *(["training"] if recipe.trains else []),
        "measurement",
        *([SERVED] if asked else []),
    )
    unknown = tuple(part for part in parts if part not in seconds)
    unlike = tuple(differences(recipe, pace.recipe))
    return replace(known, seconds=seconds, seconds_missing=unknown, based_on=pace.run, differs=unlike)


def _open_share(plan: CapturePlan) -> float:
    if (plan.folder / "done.json").exists():
        return 0.0
    files = [plan.folder / "answers.jsonl", *plan.folder.glob("shards/*/answers.jsonl")]
    answered = sum(1 for path in files for _ in read_lines(path))
    return max(0.0, 1 - answered / max(1, len(plan.prompts)))


def _tokens(plan: CapturePlan, fill: float) -> float:
    """Tokens of the answers: counted where they exist, else as full as those of the earlier run."""
    counts = CaptureCounts.read(plan.folder)
    return plan.most_tokens * fill if counts is None else float(counts.tokens)


def _measure_work(recipe: Recipe) -> float:
    """Tokens that a measurement decodes, which is what it takes its time for."""
    spec = recipe.measure
    timed = spec.speed_prompts * spec.speed_tokens
    if not recipe.has_draft:
        return float(timed * 2)  # plain, and Transformers' own
    traced = len(spec.temperatures) * spec.trace_prompts * spec.max_new_tokens
    return float(traced + timed * 3 + spec.certificate_prompts * spec.certificate_tokens * 3)
