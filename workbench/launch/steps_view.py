"""What a run, or the runs of a sweep, will do: its steps in words."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import streamlit as st

from engine.config.schema import Recipe, TrainSpec
from workbench.shared import ui
from workbench.shared.method_names import method_of

_HELD_OUT = "The target answers the held-out prompts, or answers captured before are reused."


def show(recipes: Sequence[Recipe]) -> None:
    """The steps of a run in words."""
    numbered = "\n".join(f"{place}. {line}" for place, line in enumerate(steps(recipes), start=1))
    st.markdown(f"{numbered}\n\nRuns are worked on one at a time, and continue when this page or the server is closed.")


def steps(recipes: Sequence[Recipe]) -> list[str]:
    """A sentence for each step of the runs of a sweep, or of a run; those of one that only measures train nothing."""
    recipe, count = recipes[0], len(recipes)
    if recipe.times_server:
        return [f"{_at_server(recipe)} answers the held-out prompts, and how fast it does is measured."]
    if not recipe.trains:
        subject, first = ("The draft", [_HELD_OUT]) if recipe.has_draft else ("The target", [])
        return [*first, f"{subject} is measured as it is: nothing is trained.", _measured(recipe)]
    modes = list(dict.fromkeys(r.train.mode for r in recipes))
    learning = [_LEARNS.get(mode, _offline)(next(r.train for r in recipes if r.train.mode == mode)) for mode in modes]
    methods = ", ".join(dict.fromkeys(method_of(r.train) for r in recipes))
    subject = "A draft learns" if count == 1 else f"{count} drafts learn"
    return [_answers(recipes), f"{subject} with {ui.text(methods)}, {'; '.join(learning)}.", _measured(recipe)]


def _measured(recipe: Recipe) -> str:
    """What is measured on the held-out prompts."""
    measure, what = recipe.measure, "Acceptance, speed and losslessness are"
    if not recipe.has_draft:
        return "The speed of plain decoding, and of Transformers' own, is measured on the held-out prompts."
    if measure.against == "server":
        what = "Acceptance alone is"
    elif not measure.speed_prompts:
        what = "Acceptance and losslessness are"
    temperatures = ", ".join(f"{t:g}" for t in measure.temperatures)
    return f"{what} measured on the held-out prompts at temperature {temperatures}."


def _at_server(recipe: Recipe) -> str:
    """The model that answers on a server, and where."""
    server = recipe.capture.server
    assert server is not None
    where = ui.text(urlsplit(server.base_url).hostname or "the server")
    where += f" and {len(server.also_at)} more addresses" if server.also_at else ""
    return f"{ui.text(server.model)} at {where}"


def _answers(recipes: Sequence[Recipe]) -> str:
    """Who answers the prompts, and when."""
    server = recipes[0].capture.server
    if server is not None:
        sends = f", with its {server.logprobs} likeliest tokens at each position" if server.logprobs else ""
        held = "the target here answers the held-out ones"
        if recipes[0].measure.against == "server":
            held = "it answers the held-out ones too, with the log-probabilities that it sends"
        return f"{_at_server(recipes[0])} answers the training prompts{sends}; {held}."
    if not any(recipe.train.needs_capture for recipe in recipes):
        return _HELD_OUT
    return "The target answers the training and held-out prompts, or answers captured before are reused."


def _offline(train: TrainSpec) -> str:
    most = f" and at most {train.max_steps} steps" if train.max_steps else ""
    return f"for {train.epochs:g} epochs{most}" + _selected(train)


def _online(train: TrainSpec) -> str:
    online = train.online
    how = "replayed from a capture" if train.needs_capture else "decoded speculatively"
    where = "its refusals" if online.positions == "wrong" else "all judged positions"
    again = f", {online.replay_share:.0%} of them from earlier in the stream" if online.replay_share else ""
    return (
        f"the training prompts are a stream, each {how} once; after every {online.update_interval} of them "
        f"{online.steps_per_update} step{'s' if online.steps_per_update > 1 else ''} on {where}{again}"
        + _selected(train)
    )


def _on_policy(train: TrainSpec) -> str:
    policy = train.on_policy
    what = "answers of the draft itself" if policy.form == "sampled" else "blocks that the draft proposes"
    return f"{_offline(train)}, {policy.share:.0%} of the steps on {what}, scored by the target"


def _selected(train: TrainSpec) -> str:
    return f", on {train.selection.share:.0%} of the positions" if train.selection.share < 1 else ""


_LEARNS = {"offline": _offline, "online": _online, "on_policy": _on_policy}
