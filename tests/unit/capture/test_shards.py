"""A capture in shards: the bytes that one process writes, whoever is killed where, and nothing is answered twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from engine.capture import shards, store
from engine.capture.plan import CapturePlan, plan_capture
from engine.capture.shards import cut, fill_one_by_one, fill_shard, make_in_shards, shards_of
from engine.capture.store import Capture, GrowingCapture, make_capture
from engine.chat.prompt import Prompt
from engine.config.schema import CaptureSpec
from engine.errors import Cancelled, DraftbenchError
from engine.fileio import read_json
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from tests.kill import kill_myself, run_until_killed
from tests.tiny_pair import stopping_target

pytestmark = pytest.mark.slow

COUNT = 14


@pytest.fixture(scope="module")
def target() -> LoadedModel:
    return stopping_target()


def plan_in(folder: Path, target: LoadedModel, signal: str = "exact", count: int = COUNT) -> CapturePlan:
    texts = [f"{'Why? ' * (i * 5 % 7)}What is {i} times {i + 3}?" for i in range(count)]
    prompts = [Prompt(f"p{i}", ({"role": "user", "content": text},), group="ab"[i % 2]) for i, text in enumerate(texts)]
    settings = CaptureSpec(temperature=1.0, max_new_tokens=10, seed=2, signal=signal, signal_top_k=8)
    return plan_capture(folder, target, prompts, settings)


def answer(target: LoadedModel, progress: Progress = SILENT, batch_size: int = 1) -> Callable[[CapturePlan], Capture]:
    return lambda plan: make_capture(plan, target, batch_size=batch_size, progress=progress)


def sharded(plan: CapturePlan, target: LoadedModel, count: int, progress: Progress = SILENT) -> Capture:
    fill_all = fill_one_by_one(answer(target, progress), progress)
    return make_in_shards(plan, count, fill_all, progress=progress)


def content(folder: Path) -> dict[str, Any]:
    """All bytes of a capture, but for how long the last session took and what it had to do."""
    done = read_json(folder / "done.json")
    del done["last_session"]
    return {name: (folder / name).read_bytes() for name in ("answers.jsonl", "signal.bin", "spec.json")} | {
        "done": done
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, target: LoadedModel) -> dict[str, dict[str, Any]]:
    """What one process writes at batch size 1, by the kind of signal."""
    made: dict[str, dict[str, Any]] = {}
    for kind in ("exact", "compact", "none"):
        plan = plan_in(tmp_path_factory.mktemp("alone"), target, kind)
        make_capture(plan, target, batch_size=1)
        made[kind] = content(plan.folder)
    return made


@pytest.mark.parametrize(("prompts", "count"), [(0, 3), (1, 3), (7, 1), (7, 3), (8, 8), (400, 8), (100_003, 64)])
def test_a_cut_has_each_prompt_once_in_order_and_no_empty_part(prompts: int, count: int):
    parts = cut(prompts, count)
    assert [i for part in parts for i in part] == list(range(prompts))
    assert len(parts) == max(1, min(count, prompts))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("kind", ["exact", "compact", "none"])
@pytest.mark.parametrize("count", [1, 4, 99])
def test_joined_shards_are_the_bytes_that_one_process_writes(
    tmp_path: Path, target: LoadedModel, alone: Any, generated: list[str], kind: str, count: int
):
    plan = plan_in(tmp_path, target, kind)
    capture = sharded(plan, target, count)
    assert content(plan.folder) == alone[kind]
    assert sorted(generated) == sorted(prompt.id for prompt in plan.prompts)
    assert not (plan.folder / "shards").exists()
    last = capture.counts.last_session
    assert last.tokens == capture.tokens
    assert last.seconds > 0
    generated.clear()
    assert sharded(plan, target, count + 1).address == capture.address
    assert generated == []


def test_a_larger_batch_ends_in_the_same_order_with_the_same_text(tmp_path: Path, target: LoadedModel, alone: Any):
    plan = plan_in(tmp_path, target)
    make_in_shards(plan, 3, fill_one_by_one(answer(target, batch_size=4)))
    lines = [json.loads(line) for line in (plan.folder / "answers.jsonl").read_bytes().splitlines()]
    one = [json.loads(line) for line in alone["exact"]["answers.jsonl"].splitlines()]
    assert [(line["id"], line["token_ids"], line["offset"]) for line in lines] == [
        (line["id"], line["token_ids"], line["offset"]) for line in one
    ]


Death = Callable[[CapturePlan, LoadedModel], None]


def die_in_a_shard(plan: CapturePlan, target: LoadedModel) -> None:
    """Is killed in the third of five shards, between an answer's signal and its line."""
    real, lines = store.append_line, list[Any]()

    def append_line(path: Path, value: Any) -> None:
        if len(lines) == 6:
            kill_myself()
        real(path, value)
        lines.append(value)

    store.append_line = append_line
    sharded(plan, target, 5)


def die_in_the_join(plan: CapturePlan, target: LoadedModel) -> None:
    """Is killed when the joined capture has some answers, and the signal of one more."""
    real, lines = store.append_line, list[Any]()

    def append_line(path: Path, value: Any) -> None:
        if path.parent == plan.folder:
            if len(lines) == 5:
                kill_myself()
            lines.append(value)
        real(path, value)

    store.append_line = append_line
    sharded(plan, target, 5)


def die_before_it_is_done(plan: CapturePlan, target: LoadedModel) -> None:
    """Is killed when everything is joined, and not yet marked as done."""
    shards._to_disk = lambda path: kill_myself()
    sharded(plan, target, 5)


def die_before_the_shards_are_removed(plan: CapturePlan, target: LoadedModel) -> None:
    store.shutil.rmtree = lambda path, **how: kill_myself() if path == plan.folder / "shards" else None  # type: ignore
    sharded(plan, target, 5)


def die(death: Death, folder: Path) -> None:
    target = stopping_target()
    death(plan_in(folder, target), target)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("death", "left", "count"),
    [
        (die_in_a_shard, COUNT - 6, 5),
        (die_in_a_shard, COUNT - 6, 3),
        (die_in_the_join, 0, 3),
        (die_before_it_is_done, 0, 5),
        (die_before_the_shards_are_removed, 0, 5),
    ],
)
def test_after_a_kill_nothing_is_answered_again_with_whatever_cut(
    tmp_path: Path, target: LoadedModel, alone: Any, generated: list[str], death: Death, left: int, count: int
):
    run_until_killed(die, death, tmp_path)
    plan = plan_in(tmp_path, target)
    sharded(plan, target, count)
    assert len(generated) == left
    assert content(plan.folder) == alone["exact"]
    assert not (plan.folder / "shards").exists()


def test_what_was_begun_without_shards_goes_on_in_them_and_the_other_way_round(
    tmp_path: Path, target: LoadedModel, alone: Any, generated: list[str]
):
    plan = plan_in(tmp_path, target)
    for make, most in ((answer, 4), (sharded, 7), (answer, 9)):
        stopping = Progress(quiet=True, stop_wanted=lambda most=most: len(generated) >= most)  # type: ignore[misc]
        with pytest.raises(Cancelled):
            make(plan, target, 3, stopping) if make is sharded else answer(target, stopping, batch_size=2)(plan)
    sharded(plan, target, 3)
    assert sorted(generated) == sorted(prompt.id for prompt in plan.prompts)
    assert content(plan.folder)["answers.jsonl"] == alone["exact"]["answers.jsonl"]


def test_one_process_takes_over_what_shards_have_begun(tmp_path: Path, target: LoadedModel, generated: list[str]):
    plan = plan_in(tmp_path, target)
    with pytest.raises(Cancelled):
        sharded(plan, target, 4, Progress(quiet=True, stop_wanted=lambda: len(generated) >= 8))
    assert len(answer(target)(plan).answers) == COUNT
    assert sorted(generated) == sorted(prompt.id for prompt in plan.prompts)
    assert not (plan.folder / "shards").exists()


def test_processes_that_do_the_same_share_the_work(
    tmp_path: Path, target: LoadedModel, alone: Any, generated: list[str]
):
    plans = [plan_in(tmp_path, target) for _ in range(3)]
    failed: list[BaseException] = []

    def work(plan: CapturePlan) -> None:
        try:
            assert len(sharded(plan, target, 7).answers) == COUNT
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(generated) == sorted(prompt.id for prompt in plans[0].prompts)
    assert content(plans[0].folder) == alone["exact"]


def test_a_shard_that_another_process_fills_is_left_for_last(tmp_path: Path, target: LoadedModel, generated: list[str]):
    plan = plan_in(tmp_path, target)
    first = shards_of(plan, 2)[0].folder
    first.mkdir(parents=True)
    held = FileLock(first / ".lock", thread_local=False)
    held.acquire()
    waiting = Progress(quiet=True, log=lambda note: held.release() if "another process" in note else None)
    sharded(plan, target, 2, waiting)
    assert generated == [f"p{i}" for i in (*range(7, 14), *range(7))]


def test_a_shard_of_a_capture_that_is_finished_meanwhile_is_nobodys_work(tmp_path: Path, target: LoadedModel):
    plan = plan_in(tmp_path, target)
    shard = shards_of(plan, 3)[1]

    def fill(shard: CapturePlan) -> None:
        answer(target)(plan)
        GrowingCapture(shard, SILENT)  # its folder is gone

    fill_shard(shard, fill)
    fill_shard(shard, lambda shard: pytest.fail("it is finished"))
    with pytest.raises(FileNotFoundError):
        fill_shard(shards_of(plan_in(tmp_path / "other", target), 3)[0], lambda shard: Path("none").read_bytes())


def damage_signal(folder: Path) -> None:
    raw = bytearray((folder / "signal.bin").read_bytes())
    raw[-1] ^= 1
    (folder / "signal.bin").write_bytes(raw)


def lose_a_line(folder: Path) -> None:
    lines = (folder / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "answers.jsonl").write_bytes(b"".join(lines[:-1]))


@pytest.mark.parametrize("damage", [damage_signal, lose_a_line])
def test_a_damaged_shard_is_refused_and_made_whole_by_the_next_call(
    tmp_path: Path, target: LoadedModel, alone: Any, generated: list[str], damage: Callable[[Path], None]
):
    plan = plan_in(tmp_path, target)

    def fill_and_damage(some: Any) -> None:
        fill_one_by_one(answer(target))(some)
        damage(some[1].folder)

    with pytest.raises(DraftbenchError, match="shard 2-of-3") as caught:
        make_in_shards(plan, 3, fill_and_damage)
    assert "same command" in caught.value.fix
    assert not (plan.folder / "done.json").exists()
    generated.clear()
    sharded(plan, target, 3)
    assert generated == ["p8"]
    assert content(plan.folder) == alone["exact"]


def test_shards_that_fail_do_not_stop_the_others_and_are_counted(
    tmp_path: Path, target: LoadedModel, generated: list[str]
):
    plan = plan_in(tmp_path, target)

    def fill(shard: CapturePlan) -> None:
        if shard.folder.name in ("1-of-4", "3-of-4"):
            raise DraftbenchError(f"{shard.folder.name} broke", "no memory", "buy some")
        answer(target)(shard)

    with pytest.raises(DraftbenchError, match="2 of 4 shards failed: 3-of-4 broke") as caught:
        make_in_shards(plan, 4, fill_one_by_one(fill))
    assert (caught.value.why, caught.value.fix) == (
        "no memory; finished answers and the other shards are kept",
        "buy some",
    )
    assert len(generated) == 8
    sharded(plan, target, 4)
    assert sorted(generated) == sorted(prompt.id for prompt in plan.prompts)


def test_the_disk_must_hold_the_shards_and_the_joined_capture(
    tmp_path: Path, target: LoadedModel, alone: Any, generated: list[str], monkeypatch: pytest.MonkeyPatch
):
    plan = plan_in(tmp_path, target)
    free = SimpleNamespace(free=2 * plan.most_bytes - 1)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: free)
    with pytest.raises(DraftbenchError, match="may need"):
        sharded(plan, target, 3)
    assert generated == []
    free.free = 2 * plan.most_bytes

    def fill_up(some: Any) -> None:
        fill_one_by_one(answer(target))(some)
        free.free = 1000  # others write too

    with pytest.raises(DraftbenchError, match="joining the shards") as caught:
        make_in_shards(plan, 3, fill_up)
    assert "no prompt is answered again" in caught.value.fix
    free.free = 2 * plan.most_bytes
    generated.clear()
    sharded(plan, target, 3)
    assert generated == []
    assert content(plan.folder) == alone["exact"]
