"""The facts on a run's page: mode, supervision, loss, effort, and the server that answered."""

from __future__ import annotations

import html

import streamlit as st

from engine.config.capture import truncation
from engine.config.schema import Recipe, TrainSpec
from engine.index.contents import loss_label, recipe_columns
from engine.records.training import Training
from engine.runs.draft_size import DraftSize
from workbench.shared.chart_parts import short_target
from workbench.shared.method_names import SUPERVISION, mode_word

_CSS = """<style>
.facts{display:flex;flex-wrap:wrap;gap:.3rem 1.6rem;font-size:.9rem}
.facts div{min-width:0;overflow-wrap:anywhere}.facts .name{display:block;opacity:.72;font-size:.8rem}
</style>"""


def effort(training: Training, skipped: int) -> Training:
    """The training so far. A run at work has no `training.json` yet; `skipped` is the count of its events."""
    return training if training.steps_skipped is not None else training.model_copy(update={"steps_skipped": skipped})


def facts(recipe: Recipe, done: Training, size: DraftSize | None = None) -> list[tuple[str, str]]:
    """Name and value of each fact that applies, as plain text. `size`: of the run's draft."""
    if not recipe.trains:
        return _as_it_is(recipe)
    train = recipe.train
    columns = recipe_columns(recipe)
    rows = [
        ("Target", short_target(recipe.target_label)),
        ("Draft starts from", _starts_from(recipe)),
        ("Mode", mode_word(train.mode)),
        ("Supervision", SUPERVISION[str(columns["supervision"])]),
        ("Loss", loss_label(train.loss)),
        *_of_mode(train),
        *_of_draft(recipe, size or DraftSize()),
    ]
    if train.selection.share < 1:
        rows.append(("Token selection", f"{train.selection.share:.0%}, against {train.selection.reference}"))
    return rows + _of_effort(done) + _of_server(recipe)


def _starts_from(recipe: Recipe) -> str:
    """'layers 0, 9, 20, 29 of the target', 'sample_data/drafts/generic' or 'random weights'."""
    spec = recipe.draft
    if spec.checkpoint is not None:
        return spec.checkpoint
    if spec.init == "random":
        return "random weights"
    layers = spec.layers
    return f"{layers} layers of the target" if isinstance(layers, int) else f"layers {layers} of the target"


def _as_it_is(recipe: Recipe) -> list[tuple[str, str]]:
    """The facts of a run that trains nothing."""
    spec = recipe.draft
    made = {"layers": f"layers {spec.layers} of the target, untrained", "random": "random weights"}
    draft = spec.checkpoint if spec.checkpoint is not None else made.get(spec.init, "none")
    return [("Task", "measured as it is, nothing trained"), ("Target", recipe.target_label), ("Draft", draft)]


def _of_draft(recipe: Recipe, size: DraftSize) -> list[tuple[str, str]]:
    """What of the draft is trained, and what the run keeps of it."""
    lora, rows = recipe.draft.lora, []
    if size.trained_parameters is not None:
        of = f" of {size.total_parameters:,} parameters" if size.total_parameters else " parameters"
        adapter = f" (LoRA of rank {lora.rank} on a shared draft)" if lora else ""
        rows.append(("Trained", f"{size.trained_parameters:,}{of}{adapter}"))
    elif lora:
        rows.append(("Trained", f"a LoRA adapter of rank {lora.rank} on a shared draft"))
    if size.megabytes is not None:
        shared = f", and {size.shared_megabytes:.1f} MB of the shared draft" if size.shared_megabytes else ""
        rows.append(("Draft on disk", f"{size.megabytes:.1f} MB{shared}"))
    return rows


def _of_mode(train: TrainSpec) -> list[tuple[str, str]]:
    if train.mode == "online":
        return _of_stream(train)
    if train.mode == "on_policy":
        policy = train.on_policy
        form = "answers of the draft" if policy.form == "sampled" else f"blocks of {policy.block_tokens} from anchors"
        return [("The draft writes", form), ("Share of on-policy steps", f"{policy.share:.0%}")]
    return []


def _of_stream(train: TrainSpec) -> list[tuple[str, str]]:
    online = train.online
    steps = f", {online.steps_per_update} steps" if online.steps_per_update > 1 else ""
    swap = {0: "never", 1: "after each update"}.get(online.swap_every, f"after every {online.swap_every} updates")
    return [
        ("Stream", f"{'decoded' if online.stream == 'decode' else 'replayed'}, gamma {online.num_draft_tokens}"),
        ("Update", f"every {online.update_interval} queries{steps}"),
        ("Learns from", "rejected positions" if online.positions == "wrong" else "all judged positions"),
        ("Replay share", f"{online.replay_share:.0%}"),
        ("New weights used", swap),
    ]


def _of_effort(done: Training) -> list[tuple[str, str]]:
    rows = []
    if done.steps_done is not None:
        asked = f" of {done.steps:,}" if done.steps is not None else ""
        rows.append(("Steps", f"{done.steps_done:,}{asked}"))
    if done.tokens_seen is not None and done.positions_trained:  # 0 in runs made before this was counted
        of = f" of {done.tokens_seen:,} tokens seen"
        rows.append(("Positions trained", f"{done.positions_trained:,}{of}{_share(done)}"))
    elif done.tokens_seen is not None:
        rows.append(("Target tokens seen", f"{done.tokens_seen:,}"))
    if done.steps_skipped:
        rows.append(("Steps with nothing to learn", f"{done.steps_skipped:,}"))
    return rows


def _share(done: Training) -> str:
    return f" ({done.positions_trained / done.tokens_seen:.0%})" if done.tokens_seen and done.positions_trained else ""


def _of_server(recipe: Recipe) -> list[tuple[str, str]]:
    server = recipe.capture.server
    if server is None:
        return []
    rows = [("Answers from", f"{server.model} at {', '.join(server.urls)}")]
    return rows + [("Signal", truncation(recipe.capture).removeprefix("on "))] * (recipe.capture.signal == "compact")


def show(recipe: Recipe, done: Training, size: DraftSize) -> None:
    """Draw the facts in a row that wraps."""
    items = "".join(
        f'<div role="listitem"><span class="name">{html.escape(name)}</span>{html.escape(value)}</div>'
        for name, value in facts(recipe, done, size)
    )
    st.html(f'{_CSS}<div class="facts" role="list">{items}</div>')
