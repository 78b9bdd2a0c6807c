"""Sets by name, made of the packs that are there: nothing held out anywhere is in any training set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config.schema import PromptSource
from engine.data.packs import build, sets
from engine.data.packs.build import fetch_pack, packs_folder
from engine.data.packs.catalogue import PACKS, Pack
from engine.data.packs.entry import Entry
from engine.data.packs.leaks import find_leaks
from engine.data.packs.sets import find_set, set_counts, set_file, sets_folder
from engine.data.packs.split import side_of
from engine.data.readers import read_prompts
from engine.errors import DraftbenchError
from tests.unit.conftest import call

Fetch = Callable[..., None]


def entry(identity: str, text: str, domain: str = "general", scenario: str = "curated", *tools: str) -> Entry:
    created: Any = {
        "id": identity,
        "domain": domain,
        "scenario": scenario,
        "messages": [{"role": "user", "content": text}],
        "source": "test",
        "licence": "MIT",
    }
    if tools:
        created["tools"] = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in tools]
    return created  # type: ignore[no-any-return]


def text_on(side: str, words: str, domain: str = "general") -> str:
    """A text of these words that falls on that side."""
    texts = (f"{words}, question {n * 7919} of {n * 104729}?" for n in range(500))
    return next(text for text in texts if side_of(entry("x", text, domain)) == side)


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fetch:
    """Fetches packs made of the entries given, a pack a name, into a catalogue of nothing else."""
    for name in list(PACKS):
        monkeypatch.delitem(PACKS, name)
    monkeypatch.setattr(build, "download", lambda requirement, sha256, folder, *_, **__: folder / "x.whl")
    sample(monkeypatch, tmp_path)

    def fetch_these(**packs: list[Entry]) -> None:
        for name, entries in packs.items():
            new_pack = Pack(f"{name}==1", "0" * 64, 1, lambda _, rows=entries: iter(rows), 1, "MIT", "nobody", "test")
            monkeypatch.setitem(PACKS, name, new_pack)
            fetch_pack(name)

    return fetch_these


def sample(monkeypatch: pytest.MonkeyPatch, root: Path, **files: list[str]) -> None:
    """A project folder whose sample_data holds these prompts, a file a name, all of domain `general`."""
    folder = root / "project" / "sample_data" / "prompts" / "general"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("heldout", "train"):
        texts = files.get(name, [f"a {name} prompt that nobody else asks"])
        rows = (json.dumps({"id": f"{name}-{n}", "prompt": text}) for n, text in enumerate(texts))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr("engine.data.packs.sets.PROJECT_ROOT", root / "project")
    monkeypatch.setattr("engine.data.packs.leaks.PROJECT_ROOT", root / "project")


def read(name: str) -> list[str]:
    return sorted(prompt.id for prompt in read_prompts([PromptSource(path=name)]).prompts)


def test_a_set_is_made_of_every_pack_that_has_such_records(fetch: Fetch):
    one, two = text_on("train", "one thing"), text_on("train", "another matter")
    kept_back = text_on("heldout", "a third")
    fetch(first=[entry("a", one), entry("b", kept_back)], second=[entry("c", two)])
    assert read("pack:general/curated") == ["a", "c"]
    assert read("pack:general/curated-heldout") == ["b"]


def test_a_query_held_out_in_one_pack_trains_nowhere(fetch: Fetch):
    """Its side there is not asked: near repeats, other tools, domains and scenarios may have hashed elsewhere."""
    heldout = text_on("heldout", "how do the roots of an old oak find water in a dry summer")
    near = next(
        text
        for n in range(500)
        if side_of(entry("x", text := heldout.replace("old oak", f"old oak{n}"), "biology", "historical")) == "train"
    )
    other = text_on("train", "something else entirely")
    fetch(
        first=[entry("heldout", heldout)],
        second=[entry("near", near, "biology", "historical"), entry("fine", other, "biology", "historical")],
    )
    assert read("pack:biology/historical") == ["fine"]
    row = next(row for row in set_counts()["sets"] if row["set"] == "pack:biology/historical")
    assert row["removed_as_heldout"] == {"exact": 0, "near": 1}


def test_what_sample_data_holds_out_trains_nowhere(fetch: Fetch, monkeypatch, tmp_path: Path):
    text = text_on("train", "why is the sea salty")
    sample(monkeypatch, tmp_path, heldout=[text.upper()])
    fetch(first=[entry("salty", text), entry("fine", text_on("train", "what else"))])
    assert read("pack:general/curated") == ["fine"]


def test_the_origin_of_a_set_is_reported_for_provenance(fetch: Fetch):
    fetch(first=[entry("a", text_on("train", "one")), entry("b", text_on("heldout", "two"))])
    (info,) = read_prompts([PromptSource(path="pack:general/curated")]).sources
    assert [pack["name"] for pack in info["origin"]["packs"]] == ["first"]
    assert info["origin"]["heldout_queries"] == 2  # with sample_data's
    assert info["origin"]["removed_as_heldout"] == {"exact": 0, "near": 0}
    assert info["sha256"] == set_counts()["sets"][0]["sha256"]


def test_sets_are_the_same_bytes_and_the_first_records_are_a_mixture(fetch: Fetch, monkeypatch, tmp_path: Path):
    packs = {
        name: [entry(f"{name}-{n}", f"{name} asks {n * 7919} of {n * 104729}") for n in range(60)]
        for name in ("first", "second")
    }
    fetch(**packs)
    before = set_file("pack:general/curated").read_bytes()
    first_twenty = read_prompts([PromptSource(path="pack:general/curated", limit=20)]).prompts
    assert {prompt.id.partition("-")[0] for prompt in first_twenty} == {"first", "second"}
    monkeypatch.setenv("DRAFTBENCH_CACHE", str(tmp_path / "other"))
    fetch(**packs)
    assert set_file("pack:general/curated").read_bytes() == before


def test_a_wrong_place_names_the_nearest(fetch: Fetch):
    with pytest.raises(DraftbenchError) as caught:
        find_set("pack:biologie/curated")
    assert "did you mean 'pack:biology/curated'" in caught.value.fix


def test_a_set_that_is_not_here_says_what_to_type_and_how_large_it_is():
    with pytest.raises(DraftbenchError) as caught:
        read_prompts([PromptSource(path="pack:function_calling/historical")])
    assert "no fetched pack has such prompts" in caught.value.what
    assert "bfcl (2 MB)" in caught.value.why
    assert caught.value.fix == "draftbench data fetch bfcl"


def test_making_sets_breaks_without_a_trace(fetch: Fetch, monkeypatch):
    fetch(first=[entry("a", text_on("train", "one"))])
    monkeypatch.setattr(sets, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        set_counts()
    assert not [path for path in packs_folder().iterdir() if "sets" in path.name and not path.name.endswith(".lock")]


def test_a_damaged_set_is_refused(fetch: Fetch):
    fetch(first=[entry("a", text_on("train", "one"))])
    file = set_file("pack:general/curated")
    file.write_text("")
    with pytest.raises(DraftbenchError, match="is not as it was written") as caught:
        set_file("pack:general/curated")
    assert str(sets_folder()) in caught.value.fix


def test_clean_data_passes_the_check(fetch: Fetch):
    fetch(first=[entry("a", text_on("train", "one")), entry("b", text_on("heldout", "two"))])
    done = call("data", "overlap", "--json")
    assert (done.code, done.json()["leaks"]) == (0, [])
    assert {part["name"] for part in done.json()["training"]} == {
        "sample_data/prompts/general/train.jsonl",
        "pack:general/curated",
    }


def test_a_held_out_query_in_a_users_file_is_found_and_fails(fetch: Fetch, tmp_path: Path):
    heldout = text_on("heldout", "how tall does a giraffe grow when it is fed well")
    fetch(first=[entry("a", text_on("train", "one")), entry("b", heldout)])
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"id": "b", "prompt": heldout.upper()}) + "\n" + json.dumps({"prompt": "harmless one"}))
    done = call("data", "overlap", str(mine))
    assert done.code == 1
    assert str(mine) in done.out
    assert "pack:general/curated-heldout, b" in done.out
    (leak,) = find_leaks([str(mine)])["leaks"]
    assert (leak["training"], leak["id"], leak["kind"]) == (str(mine), "b", "exact")


def test_rows_that_were_not_compared_are_counted(fetch: Fetch, tmp_path: Path):
    fetch(first=[entry("a", text_on("train", "one")), entry("b", text_on("heldout", "a giraffe that is fed well"))])
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"prompt": "harmless one"}\n{"prompt": ""}\n{"text": "a"}\n')
    shown = " ".join(call("data", "overlap", str(mine)).out.split())
    assert "rows that are no prompts were not compared: 2 (`draftbench data check` lists them)" in shown


def test_a_held_out_query_in_sample_data_is_found(fetch: Fetch, monkeypatch, tmp_path: Path):
    asked = "Why is the sky blue, and not green?"
    sample(monkeypatch, tmp_path, train=[asked], heldout=[asked.lower()])
    (leak,) = find_leaks()["leaks"]
    assert leak["training"].endswith("general/train.jsonl")
    assert leak["heldout"].endswith("general/heldout.jsonl")


def test_a_tool_set_on_both_sides_fails(fetch: Fetch, monkeypatch):
    place = ("function_calling", "curated", "weather")
    fetch(first=[entry("a", "one thing or another", *place), entry("b", "an entirely different matter", *place)])
    assert find_leaks()["ok"]
    monkeypatch.setattr(build, "side_of", lambda one: "train" if one["id"] == "c" else "heldout")
    fetch(second=[entry("c", "a question of its own", *place), entry("d", "whatever else there is", *place)])
    report = find_leaks()
    assert not report["ok"]
    assert report["divided_tool_sets"] == ["weather"]


def test_the_commands_for_packs(fetch: Fetch):
    text = text_on("train", "one")
    fetch(first=[entry("a", text)])
    assert "first" in call("data", "list").out
    shown = call("data", "show", "first")
    assert "licence: MIT" in shown.out
    assert "attribution: nobody" in shown.out
    assert text in call("data", "show", "pack:general/curated").out
    again = call("data", "fetch", "first", "--json").json()
    assert again["packs"][0]["kept"] == 1
    assert call("data", "fetch", "frist").code == 2
