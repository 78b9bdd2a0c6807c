"""A pack's folder: filters with counts, sides by hash, whole or not at all, the same bytes each time."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from engine.data.packs import build, sets
from engine.data.packs.build import describe_pack, fetch_pack, fetched_packs, is_fetched, pack_folder, read_side
from engine.data.packs.catalogue import PACKS, Pack, default_packs, find_pack
from engine.data.packs.entry import Entry
from engine.data.packs.fetch import fetch_packs, list_packs
from engine.data.packs.filters import keep_useful
from engine.data.packs.split import side_of, split_key
from engine.errors import DraftbenchError


def entry(identity: str, text: str, *tools: str, reference: str | None = None, **changes: Any) -> Entry:
    created: Any = {
        "id": identity,
        "domain": "function_calling" if tools else "general",
        "scenario": "curated",
        "messages": [{"role": "user", "content": text}],
        "source": "test",
        "licence": "MIT",
        **changes,
    }
    if tools:
        created["tools"] = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in tools]
    if reference is not None:
        created["reference"] = reference
    return created  # type: ignore[no-any-return]


def some_entries(_: Path) -> Iterator[Entry]:
    for number in range(60):
        yield entry(f"g{number}", f"question {number * 7919} about thing {number * 104729}?", reference="answer")
        yield entry(f"f{number}", f"call {number * 15485863} for {number * 31}!", f"tool_{number // 3}")
    yield entry("again", "Question 0, about thing 0.")
    yield entry("empty", "  ")


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> Pack:
    """The catalogue holds one pack `tiny`, which needs no download."""
    new_pack = Pack("tiny==1.0", "0" * 64, 10, some_entries, 1, "MIT", "nobody", "test")
    for name in list(PACKS):
        monkeypatch.delitem(PACKS, name)
    monkeypatch.setitem(PACKS, "tiny", new_pack)
    monkeypatch.setattr(build, "download", lambda requirement, sha256, folder, *_, **__: folder / "tiny.whl")
    monkeypatch.setattr(sets, "sample_files", lambda name: [])
    return new_pack


def left_behind() -> list[str]:
    folder = build.packs_folder()
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock")) if folder.exists() else []


def test_every_record_read_is_kept_or_counted_under_a_filter(pack: Pack):
    info = fetch_pack("tiny")
    assert info["read"] == 122
    assert info["removed"]["empty"] == 1
    assert info["removed"]["exact duplicate"] == 1
    assert info["read"] == info["kept"] + sum(info["removed"].values())
    assert info["kept"] == sum(row["train"] + row["heldout"] for row in info["counts"])
    by_place = {row["domain"]: row for row in info["counts"]}
    assert by_place["general"]["train_with_reference"] == by_place["general"]["train"]
    assert by_place["function_calling"]["train_with_reference"] == 0
    assert by_place["general"]["heldout"] > 0


def test_a_pack_built_twice_is_the_same_bytes(pack: Pack, monkeypatch, tmp_path: Path):
    fetch_pack("tiny")
    first = {path.name: path.read_bytes() for path in pack_folder("tiny").iterdir()}
    monkeypatch.setenv("DRAFTBENCH_CACHE", str(tmp_path / "other"))
    fetch_pack("tiny")
    assert {path.name: path.read_bytes() for path in pack_folder("tiny").iterdir()} == first
    assert set(first) == {"train.jsonl", "heldout.jsonl", "pack.json"}


def test_a_new_version_of_the_reader_builds_beside_the_old_pack(pack: Pack, monkeypatch):
    fetch_pack("tiny")
    old = pack_folder("tiny")
    monkeypatch.setitem(PACKS, "tiny", replace(pack, reader_version=2))
    assert not is_fetched("tiny")
    fetch_pack("tiny")
    assert pack_folder("tiny") != old
    assert (old / "pack.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError("not as expected")])
def test_a_build_that_breaks_leaves_nothing_and_can_be_tried_again(pack: Pack, monkeypatch, fault: BaseException):
    whole = build.write_entries

    def breaks(path: Path, entries: Any) -> None:
        if path.name == "heldout.jsonl":
            raise fault
        whole(path, entries)

    monkeypatch.setattr(build, "write_entries", breaks)
    expected = DraftbenchError if isinstance(fault, OSError) else type(fault)
    with pytest.raises(expected):
        fetch_pack("tiny")
    assert left_behind() == []
    assert fetched_packs() == []
    monkeypatch.setattr(build, "write_entries", whole)
    assert fetch_pack("tiny")["kept"] == 120


def test_what_a_kill_left_is_swept_and_never_taken_for_a_pack(pack: Pack):
    left = build.packs_folder() / f".{pack_folder('tiny').name}-making-killed"
    (left / "new").mkdir(parents=True)
    (left / "new" / "train.jsonl").write_text("{}\n")
    assert not is_fetched("tiny")
    fetch_pack("tiny")
    assert left_behind() == [pack_folder("tiny").name]


def test_who_asks_second_waits_and_builds_nothing(pack: Pack, monkeypatch):
    fetch_pack("tiny")
    folder = pack_folder("tiny")
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    monkeypatch.setattr(build, "download", lambda *_, **__: pytest.fail("downloaded twice"))
    first = FileLock(folder.parent / ".tiny.lock", thread_local=False)
    first.acquire()
    result: list[int] = []
    waiting = threading.Thread(target=lambda: result.append(fetch_pack("tiny")["kept"]))
    waiting.start()
    time.sleep(0.1)
    assert result == []
    hidden.rename(folder)
    first.release()
    waiting.join(timeout=10)
    assert result == [120]


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_side_is_refused_with_the_folder_to_remove(pack: Pack, damage: str):
    fetch_pack("tiny")
    file = pack_folder("tiny") / "train.jsonl"
    file.write_bytes(file.read_bytes()[:-20]) if damage == "cut" else file.unlink()
    with pytest.raises(DraftbenchError, match="is not as it was written") as caught:
        read_side("tiny", "train")
    assert str(pack_folder("tiny")) in caught.value.fix
    assert "draftbench data fetch tiny" in caught.value.fix


@pytest.mark.slow
@pytest.mark.parametrize("file", ["train.jsonl", "heldout.jsonl", "pack.json"])
def test_fetching_a_damaged_pack_makes_it_again(pack: Pack, file: str):
    fetch_pack("tiny")
    path = pack_folder("tiny") / file
    before = path.read_bytes()
    path.write_bytes(before[:-20])
    fetch_pack("tiny")
    assert path.read_bytes() == before


def test_a_wrong_name_is_reported_before_anything_is_fetched(pack: Pack):
    with pytest.raises(DraftbenchError, match="unknown pack 'tinny'") as caught:
        fetch_packs(["tiny", "tinny"])
    assert "did you mean 'tiny'" in caught.value.fix
    assert left_behind() == []


def test_describing_a_pack_that_is_not_here_says_how_to_get_it(pack: Pack):
    with pytest.raises(DraftbenchError) as caught:
        describe_pack("tiny")
    assert caught.value.fix == "draftbench data fetch tiny"
    assert list_packs()[0]["fetched"] is False


def test_a_set_of_tools_falls_on_one_side_and_a_conversation_with_its_opening():
    entries = [entry(f"a{n}", f"text {n}", "second", "first") for n in range(30)]
    assert len({side_of(one) for one in entries}) == 1
    assert split_key(entry("x", "a", "b", "a")) == split_key(entry("y", "c", "a", "b"))
    opening = entry("c1", "Hello there!")
    longer = entry("c2", "hello THERE")
    longer["messages"] = [
        *longer["messages"],
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "x"},
    ]
    assert split_key(opening) == split_key(longer)


def test_sides_never_move():
    """Captures and trained drafts are made from these sides: a change here would put trained-on queries into a test."""
    texts = [f"query number {n}" for n in range(40)]
    heldout = [n for n, text in enumerate(texts) if side_of(entry(str(n), text)) == "heldout"]
    assert heldout == [2, 4, 9, 28]


@pytest.mark.parametrize(("domain", "share"), [("general", 0.12), ("biology", 0.2)])
def test_about_the_stated_share_is_held_out(domain: str, share: float):
    sides = [side_of(entry(str(n), f"a query {n * 7919}", domain=domain)) for n in range(4000)]
    assert sides.count("heldout") / 4000 == pytest.approx(share, abs=0.03)


def test_the_same_words_under_other_tools_are_another_record():
    text = "What is the weather like in Paris over the coming weekend?"
    kept, removed = keep_useful(
        [
            entry("a", text, "weather"),
            entry("b", text, "weather", "news"),
            entry("c", text + "!", "weather"),
            entry("d", text.replace("coming", "comings"), "weather"),
        ]
    )
    assert [one["id"] for one in kept] == ["a", "b"]
    assert (removed["exact duplicate"], removed["near duplicate"]) == (1, 1)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (entry("a", "x" * 3001), "conversation too long"),
        (entry("a", "中" * 1001), "conversation too long"),
        (entry("a", "why is that?", "t" * 3000), "tool schemas too long"),
        (entry("a", "why is that?", reference=""), "empty"),
        (entry("a", "why"), "too short"),
    ],
)
def test_each_filter_takes_out_what_it_names(made: Entry, reason: str):
    kept, removed = keep_useful([made])
    assert kept == []
    assert {name for name, count in removed.items() if count} == {reason}


def test_every_pack_of_the_catalogue_is_pinned_licensed_and_attributed():
    for name in PACKS:
        pinned = find_pack(name)
        assert "==" in pinned.requirement
        assert len(pinned.sha256) == 64
        assert pinned.licence
        assert pinned.attribution
    assert sum(PACKS[name].size_bytes for name in default_packs()) < 30e6


def test_a_description_is_plain_json(pack: Pack):
    info = fetch_packs(["tiny"])
    assert json.loads(json.dumps(info)) == info
