"""The models that are timed, and that a round's work is really done again in the next one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed.capturing import capture_row
from benchmarks.speed.pairs import Rounds
from benchmarks.speed.subjects import LLAMA_8B, SMOLLM2, TINY, random_prompts, random_subject, random_target
from engine.capture import generate

CPU = torch.device("cpu")


def test_a_shape_knows_the_bytes_that_a_step_reads():
    model = random_target(TINY, CPU).model
    matrices = sum(p.numel() * p.element_size() for p in model.parameters() if p.dim() == 2)
    assert TINY.weight_bytes == matrices, "tied embeddings are read once, as the head"
    assert SMOLLM2.weight_bytes == pytest.approx(269e6, rel=0.01)
    assert LLAMA_8B.weight_bytes == pytest.approx(15e9, rel=0.01)


def test_random_prompts_differ_in_length_and_stay_below_the_longest():
    prompts = random_prompts(TINY, 12, 96)
    assert max(map(len, prompts)) == 96
    assert len({len(ids) for ids in prompts}) > 8
    assert min(map(min, prompts)) >= 2, "never a token that ends an answer by convention"


@pytest.mark.slow
def test_every_round_of_a_capture_is_generated_not_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked, real = [], generate.answer_prompts

    def counted(model: Any, prompts: Sequence[Sequence[int]], *rest: Any, **more: Any) -> Iterator[Any]:
        asked.append(len(prompts))
        return real(model, prompts, *rest, **more)

    monkeypatch.setattr(generate, "answer_prompts", counted)
    subject = random_subject(TINY, CPU, prompts=4)
    sizes: dict[str, int] = {"batch_size": 2, "prompts_a_round": 4, "max_new_tokens": 3}
    row = capture_row(subject, tmp_path, rounds=Rounds(2), warm_up=1, **sizes)
    assert asked == [4, 4, 4], "the warm-up and two rounds, all with the same prompts"
    assert len(row.samples["ours"]) == 2
