"""Drafts of the same prompts and steps, but of other amounts of text, say so wherever they are compared."""

from __future__ import annotations

from engine.records.provenance import Provenance
from engine.records.training import Training
from engine.runs.trained_alike import unequal_text


def side(tokens: int | None, commit: str = "", train_hash: str | None = "same", steps: int = 19):
    origin = {"prompts": {"train_hash": train_hash}, "source": {"commit": commit}}
    return Provenance.of_values(origin), Training.of_values({"steps_done": steps, "tokens_seen": tokens})


def test_other_amounts_of_text_are_said_with_the_versions_that_trained():
    assert unequal_text({"A": side(7487, "34f6251df8"), "B": side(7367, "d35f469e60"), "C": side(7487)}) == [
        "A and B were not trained on the same text: 7,487 and 7,367 tokens in 19 steps on the same prompts; different "
        "versions of the code trained them (34f6251 and d35f469)",
        "B and C were not trained on the same text: 7,367 and 7,487 tokens in 19 steps on the same prompts",
    ]


def test_equal_text_and_trainings_that_do_not_look_alike_need_no_remark():
    usual = side(7487)
    for other in (side(7487), side(7367, train_hash="other"), side(7367, steps=20), side(None)):
        assert unequal_text({"A": usual, "B": other}) == []
    unknown = side(7487, train_hash=None)
    assert unequal_text({"A": unknown, "B": side(7367, train_hash=None)}) == []
