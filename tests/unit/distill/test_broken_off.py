"""A training that is broken off anywhere, or diverges, ends like an unbroken one or loses nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.capture.batches import collate
from engine.config.schema import LossTerm
from engine.distill import checkpoint, trainer
from engine.distill.chunked import Positions, chunked_loss
from engine.distill.modes.offline import OfflineBatches
from engine.distill.trainer import Trainer
from engine.errors import Cancelled, DraftbenchError
from engine.models.draft import load_draft
from engine.models.head import Head, hidden_states
from engine.progress import Progress
from tests.kill import kill_myself, run_until_killed
from tests.tiny_pair import captured, draft_of, into, stopping_target
from tests.unit.distill.trainings import STEPS, Poisoned, PowerCut, fingerprint, settings, trainer_in

pytestmark = pytest.mark.slow


def test_a_run_is_the_same_when_made_again_and_not_when_seeded_otherwise(tmp_path, target, capture, unbroken):
    assert fingerprint(tmp_path, trainer_in(tmp_path, target, capture).run()) == unbroken
    other = tmp_path / "other"
    assert fingerprint(other, trainer_in(other, target, capture, settings(seed=1)).run())["last"] != unbroken["last"]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_broken_off_after_any_step_ends_with_the_same_weights(tmp_path, target, capture, unbroken, step: int):
    def listen(told: dict[str, Any]) -> None:
        if told["done"] == step:
            raise PowerCut

    with pytest.raises(PowerCut):
        trainer_in(tmp_path, target, capture, progress=Progress(quiet=True, listen=listen)).run()
    events: list[dict[str, Any]] = []
    outcome = trainer_in(tmp_path, target, capture, emit=into(events)).run()
    assert fingerprint(tmp_path, outcome) == unbroken
    resumed = [e["step"] for e in events if e["kind"] == "resumed"]
    assert resumed == ([(step - 1) // 3 * 3] if step > 3 else [])  # a checkpoint every 3 steps, made after the cut


def is_weights(path: Path) -> bool:
    return path.name == "draft.safetensors"


PLACES: dict[str, tuple[Any, str, Callable[..., bool], int, bool]] = {
    # what is called, for which of its calls, the how many-th of them, and whether it still does its work
    "evaluation": (Trainer, "_evaluate", lambda *_: True, 4, False),
    "best saved": (trainer, "save_draft", lambda folder, _: folder.name == "best", 2, True),
    "last saved": (trainer, "save_draft", lambda folder, _: folder.name == "last", 1, False),
    "weights written": (checkpoint, "save_file", lambda _, path: is_weights(path), 2, True),
    "state not written": (checkpoint, "write_json", lambda *_: True, 2, False),
    "old checkpoint not removed": (
        checkpoint.shutil,
        "rmtree",
        lambda path, **_: path.name == "step-00000003",
        1,
        False,
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_broken_off_anywhere_else_ends_with_the_same_weights(
    tmp_path, target, capture, unbroken, monkeypatch: pytest.MonkeyPatch, place: str
):
    owner, name, matters, cut_at, works = PLACES[place]
    real, calls = getattr(owner, name), []

    def cut(*arguments: Any, **more: Any) -> Any:
        if matters(*arguments, **more):
            calls.append(name)
        if len(calls) != cut_at:
            return real(*arguments, **more)
        if works:
            real(*arguments, **more)
        raise PowerCut

    monkeypatch.setattr(owner, name, cut)
    with pytest.raises(PowerCut):
        trainer_in(tmp_path, target, capture).run()
    monkeypatch.setattr(owner, name, real)
    outcome = trainer_in(tmp_path, target, capture).run()
    assert fingerprint(tmp_path, outcome) == unbroken
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [f"step-{STEPS:08d}"]


def test_a_run_broken_off_at_every_checkpoint_ends_with_the_same_weights(tmp_path, target, capture, unbroken):
    for _ in range(STEPS):
        seen: list[int] = []

        def listen(told: dict[str, Any], seen: list[int] = seen) -> None:
            seen.append(told["done"])
            if len(seen) == 5:  # the announcement, three steps to the next checkpoint, and one that is lost
                raise PowerCut

        try:
            outcome = trainer_in(tmp_path, target, capture, progress=Progress(quiet=True, listen=listen)).run()
        except PowerCut:
            continue
        break
    assert fingerprint(tmp_path, outcome) == unbroken


def test_a_finished_run_is_not_trained_again(tmp_path, target, capture, unbroken):
    trainer_in(tmp_path, target, capture).run()
    events: list[dict[str, Any]] = []
    outcome = trainer_in(tmp_path, target, capture, emit=into(events)).run()
    assert [e["kind"] for e in events] == ["resumed"]
    assert fingerprint(tmp_path, outcome) == unbroken


def test_asking_to_stop_ends_after_a_checkpoint(tmp_path, target, capture, unbroken):
    made = trainer_in(tmp_path, target, capture)
    made.progress = Progress(quiet=True, stop_wanted=lambda: made.outcome.steps_done == 2)
    with pytest.raises(Cancelled):
        made.run()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert fingerprint(tmp_path, trainer_in(tmp_path, target, capture).run()) == unbroken


@pytest.mark.parametrize("by", ["asking", "an interrupt"])
def test_a_stop_in_the_middle_of_a_step_keeps_the_steps_before_it(tmp_path, target, capture, unbroken, by):
    made = trainer_in(tmp_path, target, capture)
    backward, questions = made.backward, []

    def interrupted(*arguments: Any) -> Any:
        if made.outcome.steps_done == 2:
            raise KeyboardInterrupt
        return backward(*arguments)

    def asked() -> bool:  # not at the end of step 2, but in the step after it
        questions.append(made.outcome.steps_done)
        return questions.count(2) > 1

    if by == "asking":
        made.progress = Progress(quiet=True, stop_wanted=asked)
    else:
        made.backward = interrupted  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        made.run()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert fingerprint(tmp_path, trainer_in(tmp_path, target, capture).run()) == unbroken


def train_and_die(folder: Path, captures: Path) -> None:
    """Trains until step 5, then is killed: the last checkpoint is that of step 3."""
    target = stopping_target()
    capture = captured(captures, target)

    def listen(told: dict[str, Any]) -> None:
        if told["phase"] == "train" and told["done"] == 5:
            kill_myself()

    trainer_in(folder, target, capture, progress=Progress(quiet=True, listen=listen)).run()


@pytest.mark.slow
def test_a_killed_process_is_resumed_to_the_same_weights(tmp_path, target, capture, unbroken):
    run_until_killed(train_and_die, tmp_path / "run", capture.folder.parent.parent)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    outcome = trainer_in(tmp_path / "run", target, capture).run()
    assert fingerprint(tmp_path / "run", outcome) == unbroken


def test_a_checkpoint_of_another_draft_is_refused(tmp_path, target, capture):
    trainer_in(tmp_path, target, capture).run()
    with pytest.raises(DraftbenchError, match="belongs to another draft"):
        trainer_in(tmp_path, target, capture, draft=draft_of(target, layers=3)).run()


def test_a_checkpoint_holds_what_differs_from_the_target_and_its_moments(tmp_path, target, capture):
    made = trainer_in(tmp_path, target, capture)
    made.run()
    folder = tmp_path / "checkpoints" / f"step-{STEPS:08d}"
    assert sorted(p.name for p in folder.iterdir()) == ["draft.safetensors", "optimiser.safetensors", "state.json"]
    weights, moments = load_file(folder / "draft.safetensors"), load_file(folder / "optimiser.safetensors")
    assert not any("embed_tokens" in name for name in weights)
    assert set(moments) == {f"{name}/{key}" for name in weights for key in ("exp_avg", "exp_avg_sq", "step")}


# ---- divergence -----------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_before_it_is_applied(tmp_path, target, capture, unbroken):
    made = trainer_in(tmp_path, target, capture, source=Poisoned)
    before: list[torch.Tensor] = []

    def listen(told: dict[str, Any]) -> None:
        if told["done"] == 4:
            before.extend(p.detach().clone() for p in made.trained)

    made.progress = Progress(quiet=True, listen=listen)
    with pytest.raises(DraftbenchError, match="step 5: the loss is nan") as caught:
        made.run()
    assert "checkpoint step-00000003" in caught.value.why
    assert "learning_rate" in caught.value.fix
    assert before
    assert all(torch.equal(a, b) for a, b in zip(before, made.trained, strict=True))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]
    assert made.outcome.steps_done == 4
    load_draft(tmp_path / "draft" / "best", target)
    # with a healthy signal the same run goes on as if nothing had been
    assert fingerprint(tmp_path, trainer_in(tmp_path, target, capture).run()) == unbroken


def test_an_infinite_gradient_stops_too(tmp_path, target, capture, monkeypatch: pytest.MonkeyPatch):
    made = trainer_in(tmp_path, target, capture)
    monkeypatch.setattr(made, "clip", lambda: torch.tensor(math.inf))
    before = [p.detach().clone() for p in made.trained]
    with pytest.raises(DraftbenchError, match="gradient norm inf"):
        made.run()
    assert all(torch.equal(a, b) for a, b in zip(before, made.trained, strict=True))


def test_an_unknown_loss_is_refused_before_anything_is_written(tmp_path, target, capture):
    with pytest.raises(DraftbenchError, match="unknown loss 'kl'"):
        trainer_in(tmp_path, target, capture, settings(loss=[LossTerm(name="kl")]))
    assert not list(tmp_path.glob("draft*"))


def test_an_empty_capture_is_refused(target, capture):
    class Empty:
        answers: tuple[()] = ()

    with pytest.raises(DraftbenchError, match="holds no answers"):
        OfflineBatches(Empty(), settings(), None, target.device)  # type: ignore[arg-type]


def test_hidden_states_of_response_positions_are_what_the_loss_sees(tmp_path, target, capture):
    """The loss of a batch by its parts: hidden states, head, chunks; nothing is shifted by one."""
    made = trainer_in(tmp_path, target, capture)
    batch = collate(capture, capture.answers[:2], target.device)
    hidden = hidden_states(made.draft.model, batch.ids, batch.mask)[batch.responds]
    positions = Positions(batch.token_ids, torch.zeros(batch.tokens), lambda part: made.source.read_signal(batch, part))
    expected = chunked_loss(hidden, Head.of(made.draft.model), positions, settings().loss)
    assert float(made.backward(batch, 0, 1)) == pytest.approx(float(expected.detach()), rel=1e-6)
