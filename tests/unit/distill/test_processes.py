"""A training on several processes ends like one on a single process, goes on from its checkpoints, and never hangs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.distributed import HashStore

from engine.capture.batches import collate
from engine.capture.store import Capture
from engine.config.lora import DraftLoraSpec
from engine.config.schema import CaptureSpec, ModelSpec, Recipe, TrainSpec
from engine.distill import processes as module
from engine.distill.launching import launched, use_own_card
from engine.distill.modes import Material, Query, batch_source
from engine.distill.processes import ALONE, Processes
from engine.distill.selection import SelectedBatches
from engine.distill.trainer import Trainer
from engine.errors import Cancelled, DraftbenchError
from engine.models.draft import save_draft, with_adapter
from engine.models.load import LoadedModel
from engine.progress import Progress
from engine.ranks import Launch
from engine.records.training import Training
from tests.kill import kill_myself
from tests.tiny_pair import captured, draft_of, into, stopping_target
from tests.together import ends_of, run_together

pytestmark = pytest.mark.slow

STEPS = 30
NEAR = 1e-6  # weights and losses are about 0.1 and 1: the order of float32 sums, thirty steps long


def settings(**changes: Any) -> TrainSpec:
    """Several micro-batches a step, an odd number of them in some."""
    usual = {
        "batch_size": 5,
        "epochs": 99,
        "max_steps": STEPS,
        "micro_batch_tokens": 60,
        "learning_rate": 1e-3,
        "precision": "float32",
        "eval_every": 10,
        "checkpoint_every": 8,
    }
    return TrainSpec(**{**usual, **changes})


def score(model: Any) -> dict[float, float]:
    """Stands in for the measured acceptance: a number that follows the weights."""
    return {0.0: float(sum(p.detach().double().square().sum() for p in model.parameters()))}


def trainer_of(
    processes: Processes, folder: Path, shared: Path, spec: TrainSpec, progress: Progress | None = None, **draft: Any
) -> tuple[Trainer, list[dict[str, Any]]]:
    """A trainer as a run makes it, of the tiny target's capture in `shared`, and the events it will emit."""
    target, events = stopping_target(), list[dict[str, Any]]()
    capture, rank = captured(shared, target), draft.pop("lora_rank", None)
    made = draft_of(target, **draft)
    if rank is not None:
        made = with_adapter(made, DraftLoraSpec(rank=rank), shared / "draft", name="", seed=0)
    queries = [Query(answer.prompt_id, answer.prompt_ids) for answer in capture.answers]
    limits = CaptureSpec(max_new_tokens=12)
    material = Material(made, target, queries, capture.format, capture, spec, limits, folder, into(events))
    source = batch_source(material)
    if spec.selection.share < 1:
        source = SelectedBatches(source, made.model, draft_of(target, layers=[1, 3]).model)
    emit = into(events) if processes.first else lambda event: None
    quiet = progress or Progress(quiet=True)
    return Trainer(made, source, spec, folder, evaluate=score, emit=emit, progress=quiet, processes=processes), events


def train(processes: Processes, folder: Path, shared: Path, spec: TrainSpec, draft: dict[str, Any]) -> None:
    """Train to the end, and leave the events and the outcome beside the drafts."""
    made, events = trainer_of(processes, folder, shared, spec, **draft)
    outcome = made.run()
    if processes.first:
        (folder / "events.json").write_text(json.dumps(events), encoding="utf-8")
        (folder / "outcome.json").write_text(json.dumps(vars(outcome)), encoding="utf-8")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, target: LoadedModel) -> Path:
    """A folder with a capture, and with a draft for adapters."""
    folder = tmp_path_factory.mktemp("shared")
    captured(folder, target)
    save_draft(folder / "draft", draft_of(target))
    return folder


def weights(folder: Path, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(folder / "draft" / which / "draft.safetensors")


def events_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in json.loads((folder / "events.json").read_text("utf-8")) if event["kind"] == kind]


def assert_alike(one: Path, other: Path) -> None:
    """Whether two trainings took the same steps to the same weights, and reported them once."""
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=NEAR, msg=lambda text, n=name: f"{n}: {text}")
    steps, expected = (events_of(folder, "train") for folder in (one, other))
    assert [event["step"] for event in steps] == [event["step"] for event in expected]
    for mine_, theirs_ in zip(steps, expected, strict=True):
        assert mine_["loss"] == pytest.approx(theirs_["loss"], abs=NEAR)
        assert mine_["grad_norm"] == pytest.approx(theirs_["grad_norm"], rel=1e-5)
        for name in ("positions", "tokens_seen", "learning_rate"):
            assert mine_[name] == theirs_[name]


# ---- as one process -------------------------------------------------------------------------

ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "forward KL": ({}, {}),
    "TVD++ with a trained head": ({"loss": "tvd_pp"}, {"share_embeddings": False}),
    "an adapter": ({}, {"lora_rank": 2}),
    "one batch a step": ({"batch_size": 1, "micro_batch_tokens": 4096}, {}),
    "sharded": ({"shard": "full"}, {}),
    "sharded, TVD++ with a trained head": ({"shard": "full", "loss": "tvd_pp"}, {"share_embeddings": False}),
    "on policy": ({"mode": "on_policy"}, {}),
    "online": ({"mode": "online", "online": {"update_interval": 2, "steps_per_update": 3, "positions": "all"}}, {}),
    "selected tokens": ({"selection": {"share": 0.5, "reference": "a draft"}}, {}),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_two_processes_end_as_one_does(tmp_path, shared, kind: str):
    changes, draft = ALIKE[kind]
    shorter = {} if kind in ("forward KL", "sharded") else {"max_steps": 8}
    spec = settings(**{**shorter, **changes})
    run_together(train, tmp_path / "two", shared, spec, draft)
    train(ALONE, tmp_path / "one", shared, spec, draft)
    assert_alike(tmp_path / "two", tmp_path / "one")
    assert json.loads((tmp_path / "two" / "outcome.json").read_text())["steps_by_processes"].keys() == {"2"}


def test_three_processes_have_more_than_there_are_batches(tmp_path, shared):
    spec = settings(batch_size=2, micro_batch_tokens=1, max_steps=6)
    run_together(train, tmp_path / "three", shared, spec, {}, count=3)
    train(ALONE, tmp_path / "one", shared, spec, {})
    assert_alike(tmp_path / "three", tmp_path / "one")


# ---- killed and resumed ---------------------------------------------------------------------


def train_until_killed(processes: Processes, folder: Path, shared: Path, spec: TrainSpec, step: int) -> None:
    made, _ = trainer_of(processes, folder, shared, spec)
    take = made._step

    def take_or_die(number: int) -> None:
        if number == step:
            kill_myself()
        take(number)

    made._step = take_or_die  # type: ignore[method-assign]
    made.run()


@pytest.mark.parametrize(
    ("shard", "before"),
    [("none", 2), ("none", 1), ("full", 2)],
    ids=["two, then one", "one, then two", "two with pieces, then one"],
)
def test_a_killed_training_goes_on_with_another_number_of_processes(tmp_path, shared, shard: str, before: int):
    spec, folder = settings(shard=shard), tmp_path / "killed"
    run_together(train_until_killed, folder, shared, spec, 19, count=before, killed=True)
    if before == 2:
        train(ALONE, folder, shared, spec, {})
    else:
        run_together(train, folder, shared, spec, {})
    outcome = json.loads((folder / "outcome.json").read_text())
    counts = {str(before): 16, str(3 - before): STEPS - 16}
    assert outcome["steps_by_processes"] == counts
    assert Training.of_values(outcome).steps_by_processes == {int(count): steps for count, steps in counts.items()}
    whole = tmp_path / "whole"
    train(ALONE, whole, shared, spec, {})
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(tensor, weights(whole)[name], rtol=0, atol=NEAR)
    assert [event["step"] for event in events_of(folder, "train")] == list(range(17, STEPS + 1))


def asked_to_stop_in_the_second(processes: Processes, folder: Path, shared: Path, spec: TrainSpec) -> None:
    calls: list[int] = []

    def asked() -> bool:
        calls.append(1)
        return not processes.first and len(calls) > 10

    made, _ = trainer_of(processes, folder, shared, spec, Progress(quiet=True, stop_wanted=asked))
    with pytest.raises(Cancelled):
        made.run()


def test_a_stop_in_one_process_ends_all_after_a_checkpoint(tmp_path, shared):
    spec = settings(checkpoint_every=1000, shard="full")
    run_together(asked_to_stop_in_the_second, tmp_path / "stopped", shared, spec)
    (kept,) = (tmp_path / "stopped" / "checkpoints").glob("step-*")
    steps = int(kept.name.removeprefix("step-"))
    assert 0 < steps < STEPS
    run_together(train, tmp_path / "stopped", shared, spec, {})
    assert [e["step"] for e in events_of(tmp_path / "stopped", "train")] == list(range(steps + 1, STEPS + 1))


# ---- one fails ------------------------------------------------------------------------------


def one_fails(processes: Processes, failing: int, folder: Path, shared: Path) -> None:
    """An error in a step of one process; the other writes what it heard."""
    made, _ = trainer_of(processes, folder, shared, settings())
    take = made._step

    def take_or_fail(number: int) -> None:
        if number == 3 and processes.rank == failing:
            raise DraftbenchError("the disk of this machine is full", "why", "fix")
        take(number)

    made._step = take_or_fail  # type: ignore[method-assign]
    try:
        made.run()
    except DraftbenchError as error:
        (folder / f"heard-{processes.rank}").write_text(str(error), encoding="utf-8")
        raise


def test_the_first_process_says_why_another_one_failed(tmp_path, shared):
    folder = tmp_path / "run"
    began = time.monotonic()
    assert ends_of(one_fails, 1, folder, shared) == [1, 1]
    assert time.monotonic() - began < 60
    heard = (folder / "heard-0").read_text("utf-8")
    assert "process 2 of 2 has ended: the disk of this machine is full" in heard


def test_the_others_end_quietly_as_the_first_one_does(tmp_path, shared, capfd):
    folder = tmp_path / "run"
    assert ends_of(one_fails, 0, folder, shared) == [1, 2]  # an error of ours is 2 on the command line
    assert not (folder / "heard-1").exists()


def one_is_killed(processes: Processes, dying: int, folder: Path, shared: Path) -> None:
    made, _ = trainer_of(processes, folder, shared, settings())
    take = made._step

    def take_or_die(number: int) -> None:
        if number == 3 and processes.rank == dying:
            kill_myself()
        take(number)

    made._step = take_or_die  # type: ignore[method-assign]
    try:
        made.run()
    except DraftbenchError as error:
        (folder / "heard").write_text(str(error), encoding="utf-8")
        raise


@pytest.mark.parametrize("dying", [0, 1])
def test_a_killed_process_ends_the_other_one(tmp_path, shared, dying: int):
    ends = ends_of(one_is_killed, dying, tmp_path / "run", shared)
    assert ends[dying] == -9
    assert ends[1 - dying] == 1
    assert "lost another one" in (tmp_path / "run" / "heard").read_text("utf-8")


def different_files(processes: Processes, folder: Path) -> None:
    with pytest.raises(DraftbenchError, match=r"the target is a in process 1 and b in process 2"):
        processes.check_same({"the target": "ab"[processes.rank]})
    assert processes.any(processes.rank == 1)
    assert not processes.any(False)
    assert processes.from_first(lambda: "said by the first") == "said by the first"


def test_processes_notice_that_they_do_not_train_the_same_thing(tmp_path):
    run_together(different_files, tmp_path)


# ---- parts ----------------------------------------------------------------------------------


def test_a_launch_is_read_from_its_environment():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "host"}
    assert Launch.of(torchrun) == Launch(3, 4, 1, 2)
    assert Launch.of({**torchrun, "TORCHELASTIC_RESTART_COUNT": "1"}) == Launch(3, 4, 1, 2, 1)
    assert Launch.of({**torchrun, "RANK": "0", "WORLD_SIZE": "1"}) is None
    assert Launch.of({"WORLD_SIZE": "4"}) is None
    assert Launch.of({}) is None


def test_all_processes_on_one_card_are_refused(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    use_own_card(ModelSpec(device="cpu"))
    with pytest.raises(DraftbenchError, match="cuda:1 for all 2 processes"):
        use_own_card(ModelSpec(device="cuda:1"))
    for spread in ({"device_map": "auto"}, {"tensor_parallel": 2}):
        with pytest.raises(DraftbenchError, match=f"target.{next(iter(spread))} is set, and 2 processes"):
            use_own_card(ModelSpec.model_validate(spread))


def test_buckets_hold_each_tensor_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_BUCKET_VALUES", 10)
    tensors = [torch.zeros(n) for n in (1, 4, 4, 4, 30, 2)]
    buckets = [[t.numel() for t in bucket] for bucket in module._buckets(tensors)]
    assert buckets == [[1, 4, 4], [4], [30], [2]]


def test_a_batch_moves_with_all_its_tensors(target: LoadedModel, capture: Capture):
    batch = collate(capture, capture.answers, target.device)
    moved = batch.to(torch.device("meta"))
    on_cpu = [name for name, value in vars(moved).items() if isinstance(value, torch.Tensor) and value.is_cpu]
    assert on_cpu == ["places"]
    assert moved.lengths == batch.lengths


REFUSED: dict[str, dict[str, Any]] = {
    "mode on_policy": {"train": {"shard": "full", "mode": "on_policy"}},
    "compares two whole drafts": {"train": {"shard": "full", "selection": {"share": 0.5, "reference": "x"}}},
    "with an adapter": {"train": {"shard": "full"}, "draft": {"lora": {}}},
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_needs_the_whole_draft_cannot_be_sharded(why: str):
    prompts = {"train": "a.jsonl", "heldout": "b.jsonl"}
    with pytest.raises((ValidationError, DraftbenchError), match=why):
        Recipe.model_validate({"prompts": prompts, **REFUSED[why]})


def test_no_launcher_no_environment():
    assert Launch.of(os.environ) is None
    with launched() as processes:
        assert processes is ALONE


def test_a_stop_while_the_reason_is_waited_for_is_the_failure_of_the_lost_process(monkeypatch: pytest.MonkeyPatch):
    """The launcher stops the first process when another one was killed, which can say nothing any more."""
    seen = Processes(0, 2, HashStore())

    def stopped(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.distill.processes.time.sleep", stopped)
    assert seen.failure() is None
    with pytest.raises(KeyboardInterrupt), seen._talking():
        raise RuntimeError("Connection closed by peer")
    failure = seen.failure()
    assert failure is not None
    assert "lost another one: Connection closed by peer" in failure.what


@pytest.mark.parametrize("stop", [Cancelled("run"), KeyboardInterrupt()])
def test_another_process_that_was_asked_to_stop_has_not_failed(stop: BaseException, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_REASON_S", 0.0)
    store = HashStore()
    first, second = Processes(0, 2, store), Processes(1, 2, store)
    assert second.end_with_first(stop) is None
    assert first.failure() is first.failure(aside=True) is None  # else a run that was cancelled would be a failed one
    said = first._lost(RuntimeError("Connection closed by peer"))
    assert "lost another one" in str(said)
    monkeypatch.setattr(module, "_REASON_S", 1.0)
    assert "process 2 of 2 has ended: it was asked to stop" in str(first._lost(RuntimeError("closed")))
