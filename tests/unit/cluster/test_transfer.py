"""What a node hands over of a run, and how it comes home: always a state that a run can go on from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cluster.transfer import Changes, Outbox, Piece, bring_home, bundle, lay_out
from engine.errors import DraftbenchError
from engine.fileio import write_atomic
from engine.paths import Home

RUN = "one-20260101-000000-abcd"


@pytest.fixture
def node(tmp_path: Path) -> Home:
    """A node's home with a run in the middle of its training."""
    home = Home(tmp_path / "node")
    put(home, "status.json", '{"state": "running"}')
    put(home, "events.jsonl", '{"kind": "train"}\n')
    put(home, "checkpoints/step-00000003/draft.safetensors", "three")
    return home


def put(home: Home, name: str, text: str) -> None:
    write_atomic(home.run(RUN) / name, text)


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def files(folder: Path) -> dict[str, str]:
    return {name: data.decode() for name, data in bundle(folder).items()}


def test_everything_comes_home_and_then_only_what_is_new(node: Home, tmp_path: Path):
    home, outbox = Home(tmp_path / "home"), Outbox(node, RUN)
    bring_home(home, RUN, outbox.changes())
    assert files(home.run(RUN)) == files(node.run(RUN))
    assert outbox.changes().pieces == []
    append(node.run(RUN) / "events.jsonl", '{"kind": "eval"}\n')
    put(node, "training.json", "{}")
    news = outbox.changes()
    assert {(piece.path.rsplit("/")[-1], piece.offset) for piece in news.pieces} == {
        ("events.jsonl", len('{"kind": "train"}\n')),
        ("training.json", 0),
    }
    bring_home(home, RUN, news)
    assert files(home.run(RUN)) == files(node.run(RUN))


def test_what_was_laid_out_is_not_sent_back(node: Home, tmp_path: Path):
    other = Home(tmp_path / "other")
    lay_out(bundle(node.run(RUN)), other.run(RUN))
    outbox = Outbox(other, RUN)
    outbox.mark_as_sent()
    assert outbox.changes().pieces == []


def test_a_file_that_was_cut_and_grew_again_is_sent_whole(node: Home, tmp_path: Path):
    home, outbox, log = Home(tmp_path / "home"), Outbox(node, RUN), node.run(RUN) / "stream" / "answers.jsonl"
    log.parent.mkdir()
    log.write_text("first\nsecond\n")
    bring_home(home, RUN, outbox.changes())
    os.truncate(log, 6)
    append(log, "another and a longer one\n")
    bring_home(home, RUN, outbox.changes())
    assert (home.run(RUN) / "stream" / "answers.jsonl").read_text() == log.read_text()


def test_a_checkpoint_takes_the_place_of_the_last_one(node: Home, tmp_path: Path):
    home, outbox = Home(tmp_path / "home"), Outbox(node, RUN)
    bring_home(home, RUN, outbox.changes())
    put(node, "checkpoints/.step-00000006.new/draft.safetensors", "half")  # not whole yet: nobody sees it
    bring_home(home, RUN, outbox.changes())
    assert [path.name for path in (home.run(RUN) / "checkpoints").iterdir()] == ["step-00000003"]
    for name in ("draft.safetensors", "state.json"):
        put(node, f"checkpoints/step-00000006/{name}", name)
    (node.run(RUN) / "checkpoints/step-00000003/draft.safetensors").unlink()
    bring_home(home, RUN, outbox.changes())
    assert files(home.run(RUN) / "checkpoints") == {
        "step-00000006/draft.safetensors": "draft.safetensors",
        "step-00000006/state.json": "state.json",
    }


def test_files_replaced_while_they_are_read_wait_for_the_next_look(
    node: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The run ends while the outbox reads: the status must not come home before the results."""
    home, outbox = Home(tmp_path / "home"), Outbox(node, RUN)
    bring_home(home, RUN, outbox.changes())
    append(node.run(RUN) / "events.jsonl", '{"kind": "ended"}\n')
    whole = during(outbox, lambda: (put(node, "measure/summary.json", "{}"), put(node, "status.json", '"done"')))
    assert (whole.checkpoints, [piece.path.rsplit("/")[-1] for piece in whole.pieces]) == (None, ["events.jsonl"])
    bring_home(home, RUN, whole)
    bring_home(home, RUN, outbox.changes())
    assert files(home.run(RUN)) == files(node.run(RUN))


def during(outbox: Outbox, happens: Callable[[], object]) -> Changes:
    """The changes, with something happening after the first file was read."""
    read, done = outbox._piece, []

    def piece(path: str) -> Piece:
        if not done:
            done.append(happens())
        return read(path)

    outbox._piece = piece  # type: ignore[method-assign]
    try:
        return outbox.changes()
    finally:
        outbox._piece = read  # type: ignore[method-assign]


def test_labels_and_the_note_to_stop_belong_to_home(node: Home, tmp_path: Path):
    home, outbox = Home(tmp_path / "home"), Outbox(node, RUN)
    put(home, "labels.json", "mine")
    put(node, "labels.json", "old")
    put(node, "stop.json", "{}")
    bring_home(home, RUN, outbox.changes())
    assert (home.run(RUN) / "labels.json").read_text() == "mine"
    assert not (home.run(RUN) / "stop.json").exists()


def test_the_order_of_writing_can_be_cut_anywhere(node: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed after any number of writes, the home says of nothing that it is there before it is."""
    from engine.cluster import transfer

    for name in ("draft/best/draft.safetensors", "draft/best/draft.json", "training.json", "measure/summary.json"):
        put(node, name, name)
    for name in ("signal.bin", "answers.jsonl", "done.json"):
        write_atomic(node.captures / "abc" / name, name)
    order: list[str] = []
    monkeypatch.setattr(transfer, "_write", lambda path, piece: order.append(path.name))
    bring_home(Home(tmp_path / "home"), RUN, Outbox(node, RUN).changes())
    for first, then in (
        ("signal.bin", "answers.jsonl"),
        ("answers.jsonl", "done.json"),
        ("draft.safetensors", "draft.json"),
        ("draft.json", "training.json"),
        ("done.json", "training.json"),
        ("training.json", "summary.json"),
        ("summary.json", "status.json"),
    ):
        assert order.index(first) < order.index(then)
    assert order[-1] == "status.json"


def test_a_capture_that_is_whole_at_home_stays_as_it_is(node: Home, tmp_path: Path):
    home = Home(tmp_path / "home")
    for where, text in ((home, "home"), (node, "node")):
        write_atomic(where.captures / "abc" / "answers.jsonl", text)
    write_atomic(node.captures / "def" / "answers.jsonl", "node")
    write_atomic(home.captures / "abc" / "done.json", "{}")
    bring_home(home, RUN, Outbox(node, RUN).changes())
    assert (home.captures / "abc" / "answers.jsonl").read_text() == "home"
    assert (home.captures / "def" / "answers.jsonl").read_text() == "node"


def test_a_capture_that_somebody_else_makes_is_left_to_them(node: Home, tmp_path: Path):
    home = Home(tmp_path / "home")
    write_atomic(node.captures / "abc" / "answers.jsonl", "node")
    bring_home(home, RUN, Outbox(node, RUN).changes(), refused=["abc"])
    assert not (home.captures / "abc").exists()


@pytest.mark.parametrize("path", ["runs/other/status.json", f"runs/{RUN}/../x", "index.duckdb", "captures/a/../../b"])
def test_a_node_writes_nowhere_else(tmp_path: Path, path: str):
    with pytest.raises(DraftbenchError, match="a node sent"):
        bring_home(Home(tmp_path), RUN, Changes([Piece(path, 0, b"x")], None))


def test_what_follows_a_beginning_that_is_not_there_is_refused(tmp_path: Path):
    put(Home(tmp_path), "log.txt", "ab")
    with pytest.raises(DraftbenchError, match="shorter"):
        bring_home(Home(tmp_path), RUN, Changes([Piece(f"runs/{RUN}/log.txt", 3, b"x")], None))
