"""A capture on disk: shared by all who ask for the same, resumable after a kill at any byte."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock

from engine.capture import generate, store
from engine.capture.adopt import answers_elsewhere
from engine.capture.answered import AnsweredPrompt
from engine.capture.batches import collate, sequence_tokens
from engine.capture.grouping import group_by_length
from engine.capture.plan import CapturePlan, plan_capture
from engine.capture.rows import Rows
from engine.capture.store import Capture, make_capture
from engine.config.schema import CaptureSpec, ServerSpec
from engine.errors import Cancelled, DraftbenchError
from engine.fileio import read_json, read_lines
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.progress import Progress
from tests.conftest import CHATML, byte_tokenizer, tiny_llama
from tests.kill import kill_myself, run_until_killed
from tests.tiny_pair import captured, loaded, questions, stopping_target

pytestmark = pytest.mark.slow

SETTINGS = CaptureSpec(temperature=1.0, max_new_tokens=10, seed=2, signal="exact", signal_top_k=8)


@pytest.fixture(scope="module")
def target() -> LoadedModel:
    return stopping_target()


def plan_in(folder: Path, target: LoadedModel, prompts: Any = None, **changes: Any) -> CapturePlan:
    settings = SETTINGS.model_copy(update=changes)
    return plan_capture(folder, target, prompts or questions(), settings)


def content(capture: Capture) -> dict[str, Any]:
    """Everything a reader can see of each prompt, wherever its bytes lie."""
    return {
        a.prompt_id: (a.group, a.prompt_ids, a.token_ids, a.finish_reason, capture.raw_signal(a).numpy().tobytes())
        for a in capture.answers
    }


@pytest.fixture(params=["exact", "compact", "none"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_capture_holds_each_prompt_once_with_its_signal(tmp_path: Path, target: LoadedModel, kind: str):
    plan = plan_in(tmp_path, target, signal=kind)
    capture = make_capture(plan, target, batch_size=3)
    assert [a.prompt_id for a in capture.answers] == [p.id for p in questions()]
    assert [a.group for a in capture.answers] == [p.group for p in questions()]
    stride = capture.format.bytes_per_token
    for answer in capture.answers:
        assert answer.prompt_ids == plan.prompt_ids[int(answer.prompt_id[1:])]
        assert tuple(capture.raw_signal(answer).shape) == (len(answer.token_ids), stride)
    assert capture.counts.tokens == capture.tokens == sum(len(a.token_ids) for a in capture.answers) <= plan.most_tokens
    assert capture.counts.signal_bytes == capture.tokens * stride <= plan.most_bytes
    assert capture.counts.stopped == sum(a.finish_reason == "stop" for a in capture.answers)
    assert len({len(a.token_ids) for a in capture.answers}) > 2


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_stored_signal_is_the_targets_distribution_in_batches_too(
    tmp_path: Path, target: LoadedModel, batch_size: int
):
    """Read back as the trainer reads it: padded batches, response positions only."""
    capture = make_capture(plan_in(tmp_path, target), target, batch_size=batch_size)
    batch = collate(capture, capture.answers, torch.device("cpu"))
    with torch.no_grad():
        logits = target.model(input_ids=batch.ids, attention_mask=batch.mask).logits[batch.responds]
    signal, truth = capture.format.decode(batch.raw_signal, Head.of(target.model)).align(logits, 1.0)
    assert ((signal.exp() - truth.exp()).abs().sum(-1) / 2).max() < 0.02
    assert batch.token_ids.tolist() == [t for a in capture.answers for t in a.token_ids]
    assert batch.tokens == capture.tokens == int(batch.responds.sum())


def test_a_second_call_reuses_the_first(tmp_path: Path, target: LoadedModel, kind: str, generated: list[str]):
    plan = plan_in(tmp_path, target, signal=kind)
    first = content(make_capture(plan, target, batch_size=4))
    assert sorted(generated) == [p.id for p in questions()]
    generated.clear()
    assert content(make_capture(plan_in(tmp_path, target, signal=kind), target, batch_size=1)) == first
    assert generated == []


def test_the_batch_size_changes_nothing_but_the_speed(tmp_path: Path, target: LoadedModel):
    one, many = (make_capture(plan_in(tmp_path / str(n), target), target, batch_size=n) for n in (1, 64))
    assert one.address == many.address
    assert [a.token_ids for a in one.answers] == [a.token_ids for a in many.answers]


def other_weights() -> LoadedModel:
    return loaded(tiny_llama(seed=1), "other")


def other_dtype() -> LoadedModel:
    return loaded(tiny_llama().bfloat16())


def other_template() -> LoadedModel:
    """The same text for these prompts, but another template: not the same capture."""
    target = stopping_target()
    return LoadedModel(target.model, byte_tokenizer(CHATML + "{# v2 #}"), target.spec, target.fingerprint)


@pytest.mark.parametrize("different", [other_weights, other_dtype, other_template])
def test_the_address_follows_the_target(tmp_path: Path, target: LoadedModel, different: Callable[[], LoadedModel]):
    assert plan_in(tmp_path, different()).address != plan_in(tmp_path, target).address


CHANGES: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "max_new_tokens": 11,
    "seed": 3,
    "signal": "compact",
    "batch_size": 7,
    "signal_top_k": 9,
    "server": ServerSpec(base_url="http://127.0.0.1:1/v1", model="served"),
}
NOT_OF_THE_TARGETS_OWN_ANSWERS = {"batch_size", "server"}  # a server's answers have an address of another kind


@pytest.mark.parametrize("field", sorted(CaptureSpec.model_fields))
def test_the_address_follows_every_setting_that_matters(tmp_path: Path, target: LoadedModel, field: str):
    """A new setting must be given a value here, and so a place in the address or a reason to stay out of it."""
    base = {"signal": "compact"} if field == "signal_top_k" else {}
    before = plan_in(tmp_path, target, **base)
    after = plan_in(tmp_path, target, **{**base, field: CHANGES[field]})
    assert (after.address == before.address) == (field in NOT_OF_THE_TARGETS_OWN_ANSWERS)


def test_the_number_of_log_probabilities_is_no_part_of_an_exact_capture(tmp_path: Path, target: LoadedModel):
    assert plan_in(tmp_path, target, signal_top_k=9).address == plan_in(tmp_path, target).address


def test_the_address_follows_prompts_names_and_order(tmp_path: Path, target: LoadedModel):
    prompts = questions()
    reworded = replace(prompts[0], messages=({"role": "user", "content": "hello"},))
    renamed = replace(prompts[0], id="another name, and so other draws")
    lists = (prompts, prompts[:-1], prompts[::-1], [reworded, *prompts[1:]], [renamed, *prompts[1:]])
    assert len({plan_in(tmp_path, target, chosen).address for chosen in lists}) == 5


def test_an_unfinished_capture_is_not_read(tmp_path: Path, target: LoadedModel):
    plan = plan_in(tmp_path, target)
    make_capture(plan, target, batch_size=4)
    (plan.folder / "done.json").unlink()
    with pytest.raises(DraftbenchError, match="is not finished"):
        Capture(plan.folder, plan.signal)


Damage = Callable[[Path, list[bytes], list[dict[str, Any]]], None]


def write_lines(folder: Path, lines: list[bytes], tail: bytes = b"") -> None:
    (folder / "answers.jsonl").write_bytes(b"".join(lines) + tail)


def cut_signal(folder: Path, size: int) -> None:
    raw = (folder / "signal.bin").read_bytes()
    (folder / "signal.bin").write_bytes(raw[:size])


def flip(folder: Path, at: int) -> None:
    raw = bytearray((folder / "signal.bin").read_bytes())
    raw[at] ^= 1
    (folder / "signal.bin").write_bytes(bytes(raw))


def signal_without_line(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    write_lines(folder, lines[:3])


def half_a_signal_row(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    write_lines(folder, lines[:3])
    cut_signal(folder, parsed[3]["offset"] + 5)


def half_a_line(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    write_lines(folder, lines[:3], lines[3][: len(lines[3]) // 2])


def line_without_newline(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    write_lines(folder, lines[:2], lines[2].rstrip(b"\n"))


def line_without_signal(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    """The disk kept the line and lost the end of the signal, as after a power cut."""
    cut_signal(folder, parsed[3]["offset"] + 1)


def wrong_bytes(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    flip(folder, parsed[3]["offset"])


def damaged_line(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    write_lines(folder, [*lines[:3], b"\x00" * 40 + b"\n", *lines[4:]])


def no_lines(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    (folder / "answers.jsonl").unlink()


def no_signal(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    (folder / "signal.bin").unlink()


def only_not_marked_done(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (signal_without_line, 3),
        (half_a_signal_row, 3),
        (half_a_line, 3),
        (line_without_newline, 3),
        (line_without_signal, 3),
        (wrong_bytes, 3),
        (damaged_line, 3),
        (no_lines, 0),
        (no_signal, 0),
        (only_not_marked_done, 6),
    ],
)
@pytest.mark.parametrize("kind", ["exact", "compact"], indirect=True)
def test_after_a_kill_only_what_is_missing_is_made_again(
    tmp_path: Path, target: LoadedModel, generated: list[str], kind: str, damage: Damage, kept: int
):
    plan = plan_in(tmp_path, target, signal=kind)
    # one at a time, so that rounding cannot depend on which prompts share a batch
    whole = content(make_capture(plan, target, batch_size=1))
    lines = (plan.folder / "answers.jsonl").read_bytes().splitlines(keepends=True)
    parsed = [json.loads(line) for line in lines]
    (plan.folder / "done.json").unlink()
    damage(plan.folder, lines, parsed)
    generated.clear()

    resumed = make_capture(plan, target, batch_size=1)

    assert sorted(generated) == sorted(line["id"] for line in parsed[kept:])
    assert content(resumed) == whole
    assert resumed.counts.signal_bytes == resumed.tokens * resumed.format.bytes_per_token
    assert resumed.counts.prompts == len(whole)


def one_answer_twice(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    write_lines(folder, [*lines[:-1], lines[0]])


def a_line_without_its_keys(folder: Path, lines: list[bytes], parsed: list[dict[str, Any]]) -> None:
    write_lines(folder, [*lines[:-1], b'{"id": "q5"}\n'])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (signal_without_line, "holds answers of 3 prompts, and 6 were written"),
        (half_a_line, "holds answers of 3 prompts"),
        (damaged_line, "holds answers of 5 prompts"),
        (no_lines, "holds answers of 0 prompts"),
        (one_answer_twice, "holds answers of 5 prompts"),
        (a_line_without_its_keys, "KeyError"),
        (line_without_signal, "bytes, and its answers"),
        (no_signal, "signal.bin has 0 bytes"),
    ],
)
def test_a_finished_capture_that_is_not_as_written_is_refused_when_it_is_opened(
    tmp_path: Path, target: LoadedModel, damage: Damage, said: str
):
    plan, lines = damaged_after(tmp_path, target, damage)
    with pytest.raises(DraftbenchError, match=said) as refused:
        make_capture(plan, target, batch_size=1)
    (plan.folder / "done.json").unlink()  # as the refusal says
    assert "done.json and run again" in refused.value.fix
    assert len(make_capture(plan, target, batch_size=1).answers) == len(lines)


def test_signal_with_a_wrong_byte_is_refused_where_it_is_read(tmp_path: Path, target: LoadedModel):
    plan, lines = damaged_after(tmp_path, target, wrong_bytes)
    capture, wrong = make_capture(plan, target, batch_size=1), json.loads(lines[3])["id"]
    stride = capture.format.bytes_per_token
    for answer in capture.answers:
        first = answer.offset // stride
        places = slice(first, first + len(answer.token_ids))
        for read in (lambda a=answer: capture.raw_signal(a), lambda p=places: capture.raw_positions(p)):
            if answer.prompt_id == wrong:
                with pytest.raises(DraftbenchError, match=f"the signal of prompt '{wrong}' is not what was written"):
                    read()
            else:
                assert len(read()) == len(answer.token_ids)
    with pytest.raises(DraftbenchError, match="is damaged"):
        capture.raw_positions(slice(0, 10**6))


def damaged_after(folder: Path, target: LoadedModel, damage: Damage) -> tuple[CapturePlan, list[bytes]]:
    """A finished capture to which something happened, and the lines of answers that it had."""
    plan = plan_in(folder, target)
    make_capture(plan, target, batch_size=1)
    lines = (plan.folder / "answers.jsonl").read_bytes().splitlines(keepends=True)
    damage(plan.folder, lines, [json.loads(line) for line in lines])
    return plan, lines


def test_a_text_only_capture_resumes_too(tmp_path: Path, target: LoadedModel, generated: list[str]):
    plan = plan_in(tmp_path, target, signal="none")
    whole = content(make_capture(plan, target, batch_size=1))
    lines = (plan.folder / "answers.jsonl").read_bytes().splitlines(keepends=True)
    write_lines(plan.folder, lines[:4], lines[4][:9])
    (plan.folder / "done.json").unlink()
    generated.clear()
    assert content(make_capture(plan, target, batch_size=1)) == whole
    assert len(generated) == 2


def test_two_kills_in_a_row_are_no_worse_than_one(tmp_path: Path, target: LoadedModel, generated: list[str]):
    plan = plan_in(tmp_path / "whole", target)
    whole = content(make_capture(plan, target, batch_size=1))
    broken = plan_in(tmp_path / "broken", target)
    generated.clear()
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt):  # of the second, if the first had written everything
            make_capture(broken, target, batch_size=1, progress=Progress(quiet=True, listen=interrupt_after(2)))
        with open(broken.folder / "answers.jsonl", "ab") as file:
            file.write(b'{"id": "torn')
        with open(broken.folder / "signal.bin", "ab") as file:
            file.write(b"torn")
    assert content(make_capture(broken, target, batch_size=1)) == whole
    assert sorted(generated) == sorted(whole)


def interrupt_after(prompts: int) -> Callable[[dict[str, Any]], None]:
    """A listener that stops the work once that many prompts were finished in this session."""
    seen: list[int] = []

    def listen(told: dict[str, Any]) -> None:
        seen.append(told["done"])
        if len(seen) > prompts:  # the first call announces the phase
            raise KeyboardInterrupt

    return listen


def test_asking_to_stop_stops_between_two_prompts(tmp_path: Path, target: LoadedModel, generated: list[str]):
    plan = plan_in(tmp_path, target)
    with pytest.raises(Cancelled):
        make_capture(plan, target, batch_size=1, progress=Progress(quiet=True, stop_wanted=lambda: len(generated) >= 2))
    assert len(generated) == 2
    make_capture(plan, target, batch_size=1)
    assert len(generated) == len(questions())


def test_progress_counts_what_was_finished_before(tmp_path: Path, target: LoadedModel, generated: list[str]):
    plan = plan_in(tmp_path, target)
    with pytest.raises(KeyboardInterrupt):
        make_capture(plan, target, batch_size=1, progress=Progress(quiet=True, listen=interrupt_after(2)))
    notes: list[dict[str, Any]] = []
    make_capture(plan, target, batch_size=1, progress=Progress(quiet=True, listen=notes.append))
    before = notes[0]["done"]
    assert before >= 2  # what was said to be done is done; the writing may be ahead of what is said
    assert [(t["done"], t["total"]) for t in notes] == [(done, 6) for done in range(before, 7)]


def die_in_the_middle(folder: Path, prompts: int) -> None:
    """Captures until that many prompts are finished, then is killed."""
    target = stopping_target()

    def listen(told: dict[str, Any]) -> None:
        if told["done"] >= prompts:
            kill_myself()

    make_capture(plan_in(folder, target), target, batch_size=2, progress=Progress(quiet=True, listen=listen))


def die_in_the_writing_thread(folder: Path, prompts: int) -> None:
    """Is killed between the signal of an answer and its line."""
    target, lines = stopping_target(), list[Any]()
    real = store.append_line

    def append_line(path: Path, value: Any) -> None:
        if len(lines) == prompts:
            kill_myself()
        real(path, value)
        lines.append(value)

    store.append_line = append_line
    make_capture(plan_in(folder, target), target, batch_size=2)


@pytest.mark.slow
@pytest.mark.parametrize("die", [die_in_the_middle, die_in_the_writing_thread])
def test_a_killed_process_is_resumed_without_answering_a_finished_prompt_again(
    tmp_path: Path, target: LoadedModel, generated: list[str], die: Callable[[Path, int], None]
):
    run_until_killed(die, tmp_path / "killed", 3)
    plan = plan_in(tmp_path / "killed", target)
    finished = [line["id"] for line in read_lines(plan.folder / "answers.jsonl")]
    assert 3 <= len(finished) <= 6  # the writer is a thread of its own, and may be ahead of what is reported
    assert not (plan.folder / "done.json").exists()
    resumed = make_capture(plan, target, batch_size=2)
    assert sorted(generated + finished) == [p.id for p in questions()]
    unbroken = make_capture(plan_in(tmp_path / "unbroken", target), target, batch_size=2)
    assert [a.token_ids for a in resumed.answers] == [a.token_ids for a in unbroken.answers]


def free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))


def test_a_capture_that_may_not_fit_the_disk_is_refused_before_it_begins(
    tmp_path: Path, target: LoadedModel, generated: list[str], monkeypatch: pytest.MonkeyPatch
):
    plan = plan_in(tmp_path, target)
    assert plan.most_bytes == 6 * 10 * 64
    free(monkeypatch, plan.most_bytes - 1)
    with pytest.raises(DraftbenchError, match="the capture may need") as caught:
        make_capture(plan, target, batch_size=4)
    assert "compact" in caught.value.fix
    assert generated == []
    free(monkeypatch, plan.most_bytes)
    make_capture(plan, target, batch_size=4)


def test_a_resumed_capture_needs_room_only_for_what_is_missing(
    tmp_path: Path, target: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    plan = plan_in(tmp_path, target)
    with pytest.raises(KeyboardInterrupt):
        make_capture(plan, target, batch_size=1, progress=Progress(quiet=True, listen=interrupt_after(4)))
    free(monkeypatch, plan.most_bytes - 4 * 10 * 64)
    assert len(make_capture(plan, target, batch_size=1).answers) == 6


def test_a_disk_that_fills_up_meanwhile_keeps_what_is_finished(
    tmp_path: Path, target: LoadedModel, generated: list[str], monkeypatch: pytest.MonkeyPatch
):
    plan = plan_in(tmp_path, target)
    real, written = store.append_line, list[Any]()

    def full_after_two(path: Path, value: Any) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        real(path, value)
        written.append(value)

    monkeypatch.setattr(store, "append_line", full_after_two)
    with pytest.raises(DraftbenchError, match="disk is full"):
        make_capture(plan, target, batch_size=1)
    monkeypatch.setattr(store, "append_line", real)
    generated.clear()
    make_capture(plan, target, batch_size=1)
    assert len(generated) == 4


def test_a_slow_disk_loses_nothing_that_was_answered_before_the_end(
    tmp_path: Path, target: LoadedModel, generated: list[str], monkeypatch: pytest.MonkeyPatch
):
    plan = plan_in(tmp_path, target)
    real = store.append_line
    monkeypatch.setattr(store, "append_line", lambda path, value: (time.sleep(0.05), real(path, value)))
    with pytest.raises(Cancelled):
        make_capture(plan, target, batch_size=1, progress=Progress(quiet=True, stop_wanted=lambda: len(generated) >= 4))
    assert [line["id"] for line in read_lines(plan.folder / "answers.jsonl")] == generated
    assert len(generated) == 4


def test_a_batch_that_is_found_by_memory_says_when_memory_was_too_small(
    tmp_path: Path, target: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    real, notes = Rows.step, list[str]()

    def step(rows: Rows) -> None:
        if rows.free + rows.busy > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(rows)

    monkeypatch.setattr(Rows, "step", step)
    auto = make_capture(
        plan_in(tmp_path, target), target, batch_size="auto", progress=Progress(quiet=True, log=notes.append)
    )
    assert [note for note in notes if "memory" in note] == [
        "out of memory: the target answers 3 prompts at a time from here on"
    ]
    one = make_capture(plan_in(tmp_path / "one", target), target, batch_size=1)
    assert [a.token_ids for a in auto.answers] == [a.token_ids for a in one.answers]


def test_who_asks_second_waits_and_reuses(tmp_path: Path, target: LoadedModel, generated: list[str]):
    """Another process holds the capture: wait for it, say so, and do not answer a prompt."""
    plan = plan_in(tmp_path, target)
    whole = content(make_capture(plan, target, batch_size=4))
    done = (plan.folder / "done.json").read_bytes()
    (plan.folder / "done.json").unlink()
    generated.clear()
    held = FileLock(plan.folder / ".lock", thread_local=False)
    held.acquire()

    def finish() -> None:
        time.sleep(0.3)
        (plan.folder / "done.json").write_bytes(done)
        held.release()

    thread = threading.Thread(target=finish)
    thread.start()
    assert content(make_capture(plan, target, batch_size=4)) == whole
    thread.join()
    assert generated == []


def test_who_waits_can_be_stopped(tmp_path: Path, target: LoadedModel, capsys: pytest.CaptureFixture[str]):
    plan = plan_in(tmp_path, target)
    plan.folder.mkdir(parents=True)
    with FileLock(plan.folder / ".lock"), pytest.raises(Cancelled):
        make_capture(plan, target, batch_size=4, progress=Progress(stop_wanted=lambda: True))
    assert "is being made by another process" in capsys.readouterr().err


def test_a_model_that_cannot_be_split_at_its_head_is_refused_for_an_exact_signal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = stopping_target()

    def odd(model: Any) -> None:
        raise DraftbenchError("no head")

    monkeypatch.setattr(store, "check_head", odd)
    with pytest.raises(DraftbenchError, match="no head"):
        make_capture(plan_in(tmp_path, target), target, batch_size=4)
    make_capture(plan_in(tmp_path, target, signal="compact"), target, batch_size=4)


def answered(name: str, prompt: int, answer: int) -> AnsweredPrompt:
    return AnsweredPrompt(name, "", [5] * prompt, list(range(10, 10 + answer)), "stop", 0)


def test_a_batch_marks_the_positions_that_predict_the_answer():
    capture = SimpleNamespace(
        raw_signal=lambda a: torch.full((len(a.token_ids), 2), len(a.token_ids), dtype=torch.uint8),
        places=lambda a: torch.zeros(len(a.token_ids), dtype=torch.long),
    )
    batch = collate(capture, [answered("a", 3, 2), answered("b", 1, 4)], torch.device("cpu"))  # type: ignore[arg-type]
    assert batch.ids.tolist() == [[5, 5, 5, 10], [5, 10, 11, 12]]
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert batch.responds.tolist() == [[False, False, True, True], [True, True, True, True]]
    assert batch.token_ids.tolist() == [10, 11, 10, 11, 12, 13]
    assert batch.raw_signal[:, 0].tolist() == [2, 2, 4, 4, 4, 4]
    assert batch.lengths == [2, 4]
    short = collate(capture, [answered("a", 1, 1), answered("b", 3, 2)], torch.device("cpu"))  # type: ignore[arg-type]
    assert short.mask.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]
    assert short.responds.tolist() == [[True, False, False, False], [False, False, True, True]]


@pytest.mark.parametrize("most", [1, 10, 24, 100, 10_000])
def test_groups_hold_each_sequence_once_and_stay_within_the_limit(most: int):
    lengths = [5, 40, 7, 5, 12, 1, 33, 8]
    groups = group_by_length(lengths, most)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or max(lengths[i] for i in group) * len(group) <= most
    if most == 10_000:
        assert len(groups) == 1
    assert sequence_tokens(answered("a", 3, 2)) == 4


def test_answers_that_another_capture_holds_are_copied_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = loaded(tiny_llama())
    small = captured(tmp_path, target, questions(3))
    asked: list[str] = []
    real = generate.answer_prompts
    monkeypatch.setattr(
        generate, "answer_prompts", lambda *given, **more: (asked.extend(given[2]), real(*given, **more))[1]
    )
    large = captured(tmp_path, target, questions(5))
    assert asked == ["q3", "q4"]
    alone = captured(tmp_path / "alone", target, questions(5))
    assert {a.prompt_id: a.token_ids for a in large.answers} == {a.prompt_id: a.token_ids for a in alone.answers}
    for mine, theirs in zip(small.answers, large.answers[:3], strict=True):
        assert mine.prompt_id == theirs.prompt_id
        assert torch.equal(small.raw_signal(mine), large.raw_signal(theirs))


def test_answers_of_other_settings_other_text_or_with_damage_are_not_copied(tmp_path: Path):
    target = loaded(tiny_llama())
    first = captured(tmp_path, target, questions(3))
    wanted = {a.prompt_id: a.prompt_ids for a in first.answers}
    spec = read_json(first.folder / "spec.json")
    folder = first.folder.parent / "new"

    def found(spec: dict[str, Any], wanted: dict[str, list[int]]) -> list[int]:
        return sorted(answer.index for answer in answers_elsewhere(folder, spec, wanted))

    assert found(spec, wanted) == [0, 1, 2]
    assert found({**spec, "temperature": 0.5}, wanted) == []
    assert found(spec, {**wanted, "q1": [1, 2, 3]}) == [0, 2]
    with open(first.folder / "signal.bin", "r+b") as file:
        file.write(b"\xff\xff\xff\xff")
    assert len(found(spec, wanted)) == 2


@pytest.mark.parametrize("damage", ['{"format": ', "[1]", "\x00" * 40, "null"])
def test_a_captures_damaged_description_keeps_no_other_one_from_being_made(tmp_path: Path, damage: str):
    target = loaded(tiny_llama())
    small = captured(tmp_path, target, questions(3))
    whole = (small.folder / "spec.json").read_bytes()
    (small.folder / "spec.json").write_text(damage)
    assert len(captured(tmp_path, target, questions(5)).answers) == 5
    assert len(captured(tmp_path, target, questions(3)).answers) == 3
    assert (small.folder / "spec.json").read_bytes() == whole  # known from the address, and written again
