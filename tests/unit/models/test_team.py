"""A tiny target split over two processes: the same answers as whole, and no process outlives the first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from engine.config.schema import DraftSpec, ModelSpec
from engine.decode import bare
from engine.decode.runner import runner_for
from engine.decode.sampling import Sampling
from engine.decode.slot_fit import slot_fit
from engine.errors import DraftbenchError
from engine.models import team
from engine.models.draft import initialise_draft
from engine.models.head import check_head, hidden_states, refuse_unknown
from engine.models.load import LoadedModel, load_model
from engine.paths import PROJECT_ROOT
from tests.conftest import tiny_llama

pytestmark = pytest.mark.slow

IDS = torch.tensor([[0, 5, 7, 90, 33]])
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # sums in another order, float32


def spec(folder: Path, **more: object) -> ModelSpec:
    return ModelSpec.model_validate({"model": str(folder), "dtype": "float32", "device": "cpu", **more})


@pytest.fixture(scope="module")
def whole(tiny_target_folder: Path) -> LoadedModel:
    return load_model(spec(tiny_target_folder))


@pytest.fixture(scope="module")
def split(tiny_target_folder: Path) -> Iterator[LoadedModel]:
    if torch.cuda.is_available():
        pytest.skip("on a machine with cards the processes use those")
    yield load_model(spec(tiny_target_folder, tensor_parallel=2))
    if team._team is not None:
        team._team._end()
    torch.distributed.destroy_process_group()


def test_each_process_has_a_part_and_both_ends(split: LoadedModel, whole: LoadedModel):
    assert team.is_split(split.model)
    assert not team.is_split(whole.model)
    query = split.model.model.layers[0].self_attn.q_proj.weight
    assert query.to_local().shape == (16, 32)
    assert split.placed == "every layer in 2 parts, on as many devices"
    assert (split.fingerprint, split.embeddings_hash) == (whole.fingerprint, whole.embeddings_hash)


def test_a_split_target_reads_and_decodes_what_the_whole_one_does(split: LoadedModel, whole: LoadedModel):
    check_head(split.model)
    assert slot_fit(split.model).side_by_side
    torch.testing.assert_close(hidden_states(split.model, IDS), hidden_states(whole.model, IDS), **CLOSE)
    results = []
    for target in (split, whole):
        runner = runner_for(target.model)
        first = runner.feed([[5, 9, 2], [7, 7, 7, 7, 1, 3], [200]], last=1)
        runner.take_back([1, 0, 0])
        runner.keep_rows([1, 0])
        results.append(torch.cat([first[:2], runner.feed_ids(torch.tensor([[3], [4]]))]))
        runner.close()
    torch.testing.assert_close(*results, **CLOSE)
    texts = [bare.generate(t.model, [1, 2, 3], Sampling(0.0), max_new_tokens=8, seed=0) for t in (split, whole)]
    assert texts[0] == texts[1]


def test_a_draft_gets_whole_layers_of_a_split_target(split: LoadedModel, whole: LoadedModel):
    mine, plain = (initialise_draft(target, DraftSpec(layers=[1, 3]), seed=0).model for target in (split, whole))
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), plain.parameters(), strict=True))


def test_an_error_that_all_raise_alike_leaves_them_working(split: LoadedModel, whole: LoadedModel):
    for _ in range(2):
        with pytest.raises(DraftbenchError, match="has no embedding"):
            hidden_states(split.model, torch.tensor([[999]]))
    torch.testing.assert_close(hidden_states(split.model, IDS), hidden_states(whole.model, IDS), **CLOSE)
    assert refuse_unknown(split.model, IDS) is IDS


def test_a_draft_is_not_sent_to_the_other_processes(split: LoadedModel):
    with pytest.raises(DraftbenchError, match="is in one process alone"):
        bare.generate(split.model, [1], Sampling(0.0), max_new_tokens=2, seed=0, assistant=tiny_llama(layers=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"tensor_parallel": 3}, "4 attention heads .* set|one of 2, 4"), ({"tensor_parallel": 4}, "2 key value heads")],
)
def test_a_number_that_does_not_divide_the_heads_is_refused(
    tiny_target_folder: Path, settings: dict[str, int], message: str
):
    with pytest.raises(DraftbenchError, match=message):
        load_model(spec(tiny_target_folder, **settings))


def test_one_of_several_processes_starts_no_others(tiny_target_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(team, "_team", None)
    with pytest.raises(DraftbenchError, match="one of several"):
        load_model(spec(tiny_target_folder, tensor_parallel=2))


LEAD = """
import sys, time
from engine.config.schema import ModelSpec
from engine.models import team
from engine.models.load import load_model
load_model(ModelSpec(model=sys.argv[1], dtype="float32", device="cpu", tensor_parallel=2))
print(team._team.others[0].pid, flush=True)
time.sleep(600)
"""


def test_the_others_end_when_the_first_is_killed(tiny_target_folder: Path):
    if torch.cuda.is_available():
        pytest.skip("on a machine with cards the processes use those")
    first = subprocess.Popen(
        [sys.executable, "-c", LEAD, str(tiny_target_folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    )
    assert first.stdout is not None
    other = psutil.Process(int(first.stdout.readline()))
    first.send_signal(signal.SIGKILL)
    first.wait()
    for _ in range(300):
        if not other.is_running() or other.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        other.kill()
        raise AssertionError("it is still there")
