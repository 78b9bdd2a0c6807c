"""Forward KL from moments: the same value and gradient as from the target's logits, and only where that is so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.capture.store import Capture
from engine.config.schema import DraftSpec, LossTerm, TrainSpec
from engine.distill.chunked import Positions, chunked_loss
from engine.distill.modes.offline import OfflineBatches
from engine.distill.moments import MomentTable, moment_table
from engine.distill.trainer import Trainer
from engine.models.draft import Draft, initialise_draft, trim
from engine.models.head import Head
from engine.models.load import LoadedModel
from tests.tiny_pair import captured

LOSSES: dict[str, Any] = {
    "forward_kl": "forward_kl",
    "twice": [LossTerm(name="forward_kl", weight=0.5), LossTerm(name="forward_kl", weight=2.0)],
    "and text": [LossTerm(name="forward_kl", weight=0.3), LossTerm(name="sft", weight=1.5)],
    "hard": "argmax_ce",
    "blended": [LossTerm(name="argmax_ce", hard_weight=0.4, weight=0.7)],
    "all": [LossTerm(name="argmax_ce", hard_weight=0.6), LossTerm(name="forward_kl"), LossTerm(name="sft", weight=0.2)],
}


def spec(**changes: Any) -> TrainSpec:
    return TrainSpec(**{"batch_size": 3, "epochs": 4, "precision": "float32", **changes})


def draft_of(target: LoadedModel, trimmed: bool = False, **more: Any) -> Draft:
    draft = initialise_draft(target, DraftSpec(**{"layers": 2, **more}), seed=0)
    return trim(draft, target, torch.arange(3, 120)) if trimmed else draft


def trainer(folder: Path, target: LoadedModel, capture: Capture, draft: Draft, settings: TrainSpec) -> Trainer:
    ids = Head.of(draft.model).ids
    source = OfflineBatches(capture, settings, Head.of(target.model), target.device, ids)
    return Trainer(draft, source, settings, folder)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("trimmed", [False, True], ids=["all ids", "trimmed vocabulary"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_are_those_of_the_reference(
    tmp_path, target, capture, loss: str, temperature: float, trimmed: bool, weighted: bool
):
    if loss in ("and text", "all") and temperature != 1:
        pytest.skip("text is learnt at temperature 1")
    settings = spec(loss=LOSSES[loss], distill_temperature=temperature)
    made = trainer(tmp_path, target, capture, draft_of(target, trimmed), settings)
    assert made.moments is not None
    for batch in made.source.micro_batches(0):
        if weighted:
            batch = replace(batch, weights=torch.rand(batch.tokens, len(settings.loss)))
        hidden, head = made._hidden(batch).detach().requires_grad_(), replace(Head.of(made.model), scale=0.7)
        found = []
        for reference in (False, True):
            positions = made._positions(batch, 0)
            value = chunked_loss(
                hidden, head, positions, settings.loss, temperature=temperature, chunk=5, reference=reference
            )
            found.append((value.detach(), torch.autograd.grad(value, hidden)[0]))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=2e-6)


def test_a_text_the_draft_has_no_id_for_teaches_nothing(tmp_path, target, capture):
    made = trainer(tmp_path, target, capture, draft_of(target), spec(loss=LOSSES["and text"]))
    (batch, *_) = made.source.micro_batches(0)
    hidden = made._hidden(batch).detach().requires_grad_()
    unknown = replace(made._positions(batch, 0), token_ids=torch.full((batch.tokens,), -1))
    only = chunked_loss(
        hidden, Head.of(made.model), made._positions(batch, 0), [LossTerm(name="forward_kl", weight=0.3)]
    )
    both = chunked_loss(hidden, Head.of(made.model), unknown, LOSSES["and text"])
    torch.testing.assert_close(both, only)


def test_moments_do_not_depend_on_who_asks_first(target, capture):
    def table() -> MomentTable:
        reader = OfflineBatches(capture, spec(), Head.of(target.model), target.device).reader
        return MomentTable(reader, Head.of(draft_of(target).model))

    places = torch.randperm(capture.positions, generator=torch.Generator().manual_seed(0))
    whole, piecewise = table().read(places), table()
    assert whole is not None
    for i in range(0, len(places), 7):
        part = piecewise.read(places[i : i + 7])
        assert part is not None
        for name in ("mean_row", "log_mean", "mass", "choice"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[i : i + 7])


def test_a_position_outside_the_capture_has_none(target, capture):
    reader = OfflineBatches(capture, spec(), Head.of(target.model), target.device).reader
    assert MomentTable(reader, Head.of(draft_of(target).model)).read(torch.tensor([0, -1])) is None


def test_the_signal_of_known_positions_is_not_read(tmp_path, target, capture):
    class Unread(OfflineBatches):
        def reads_capture(self) -> bool:
            return True

        def read_signal(self, batch: Any, part: slice) -> Any:
            raise AssertionError("the moments are known")

    settings = spec()
    source = Unread(capture, settings, Head.of(target.model), target.device)
    Trainer(draft_of(target), source, settings, tmp_path).run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "draft"),
    [
        ({"loss": "reverse_kl"}, {}),
        ({"loss": "sft"}, {}),
        ({"loss": ["forward_kl", "tvd"]}, {}),
        ({"loss": ["forward_kl", "sft"], "distill_temperature": 2.0}, {}),
        ({"loss": ["argmax_ce", "tvd"]}, {}),
        ({"epochs": 1.5}, {}),
        ({"epochs": 9, "max_steps": 2}, {}),
        ({}, {"share_embeddings": False}),
    ],
    ids=[
        "reverse",
        "text alone",
        "a sum",
        "softened text",
        "another sum",
        "few epochs",
        "few steps",
        "trained head",
    ],
)
def test_elsewhere_the_signal_is_read(tmp_path, target, capture, changes: dict[str, Any], draft: dict[str, Any]):
    assert trainer(tmp_path, target, capture, draft_of(target), spec()).moments is not None
    assert trainer(tmp_path, target, capture, draft_of(target, **draft), spec(**changes)).moments is None


def test_other_signals_heads_and_sources_have_none(tmp_path, target, capture, compact_capture):
    assert trainer(tmp_path, target, compact_capture, draft_of(target), spec()).moments is None
    source = OfflineBatches(capture, spec(), Head.of(target.model), target.device)
    head = Head.of(draft_of(target).model)
    assert moment_table(source, head) is not None
    assert moment_table(source, replace(head, softcap=30.0)) is None
    assert moment_table(source, replace(head, bias=torch.zeros(len(head.weight)))) is None
    assert moment_table(source, replace(head, weight=torch.zeros(999, head.weight.shape[1]))) is None

    class Changed(OfflineBatches):
        def read_signal(self, batch: Any, part: slice) -> Any:
            return super().read_signal(batch, part)

    assert moment_table(Changed(capture, spec(), Head.of(target.model), target.device), head) is None


@pytest.mark.slow
def test_training_from_moments_ends_where_training_from_logits_does(tmp_path, target):
    """The same steps, up to rounding, with a longer text than one block of the table."""
    long = captured(tmp_path / "long", target, max_new_tokens=40)
    runs = []
    for direct in (True, False):
        made = trainer(tmp_path / str(direct), target, long, draft_of(target), spec(epochs=6, learning_rate=0.01))
        assert made.moments is not None
        if direct:
            made.moments = None
        made.run()
        runs.append([p.detach() for p in made.trained])
    for mine, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-4)


def test_a_table_that_would_be_too_large_is_not_made(target, capture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.distill.moments._MOST_BYTES", 1000)
    source = OfflineBatches(capture, spec(), Head.of(target.model), target.device)
    assert moment_table(source, Head.of(draft_of(target).model)) is None


def test_positions_without_a_table_read_their_signal():
    assert Positions(torch.zeros(1), torch.zeros(1), lambda part: None).read_moments(slice(0, 1)) is None
