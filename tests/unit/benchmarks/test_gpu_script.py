"""benchmarks/gpu.py on tiny models and a processor: every row's code, whose figures mean nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks import bench, gpu
from benchmarks.speed.goals import GOALS
from benchmarks.speed.record import Report, read
from benchmarks.speed.rows import Rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Report:
    out = tmp_path_factory.mktemp("gpu") / "out.json"
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(out)]) == 0
    return read(out)


def test_every_row_is_measured(tiny: Report):
    assert [row.name for row in tiny.rows] == list(Rows(torch.device("cpu"), tiny=True).planned())
    assert tiny.skipped == {}
    assert tiny.device == "tiny", "never taken for figures of a machine"


def test_every_goal_of_a_gpu_has_its_figure(tiny: Report):
    rows = {row.name: row.figures for row in tiny.rows}
    goals = [goal for goal in GOALS if goal.device == "cuda" and goal.row != "quickstart"]
    assert [goal.work for goal in goals if goal.figure not in rows[goal.row]] == []


def test_ways_do_the_same_amount_of_work(tiny: Report):
    decode = next(row for row in tiny.rows if row.name == "decode")
    amounts = {way: [amount for amount, _ in listed] for way, listed in decode.samples.items()}
    assert len({tuple(listed) for listed in amounts.values()}) == 1, amounts
    assert decode.figures["same_text"].value == 1, "float32 or not, the same kernels wrote the same ids"


def test_the_trainer_learns_from_every_token_of_every_step(tiny: Report):
    trainer, scale = next(row for row in tiny.rows if row.name == "trainer"), Rows(torch.device("cpu"), tiny=True).scale
    amount = scale.train_answers * scale.train_tokens * scale.train_steps
    assert {done for done, _ in trainer.samples["ours"]} == {amount}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_it_says_so(capsys: pytest.CaptureFixture[str]):
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "this machine has no CUDA device: `make bench` measures its processor\n"


def test_a_row_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]):
    assert bench.main(["--rows", "decod", "--anyway"]) == 2
    assert "decode" in capsys.readouterr().err


def test_how_an_environment_is_made_is_printed(capsys: pytest.CaptureFixture[str]):
    assert bench.main(["--set-up", "vllm"]) == 0
    assert "--name-package" in capsys.readouterr().out
