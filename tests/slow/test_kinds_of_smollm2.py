"""Kinds of the embedded target's own tokens, on the shipped prompts and on answers that it wrote."""

from __future__ import annotations

import json
import os

import platformdirs
import pytest

from engine.config.schema import ModelSpec
from engine.paths import PROJECT_ROOT
from engine.runs.folder import RunFolder
from engine.runs.samples import SAMPLES
from engine.slices.of_run import slices_of_run
from engine.slices.reading import TokenReader, token_reader

pytestmark = pytest.mark.slow

CACHE = os.environ.get("DRAFTBENCH_TEST_CACHE") or str(platformdirs.user_cache_path("draftbench"))


@pytest.fixture(autouse=True)
def real_cache(own_folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAFTBENCH_CACHE", CACHE)


@pytest.fixture
def smollm2(real_cache: None) -> TokenReader:
    return token_reader(ModelSpec(model="asset:smollm2-135m-instruct"))


def test_the_pieces_of_real_tokens_are_the_text(smollm2: TokenReader):
    for path in sorted((PROJECT_ROOT / "sample_data" / "prompts").glob("*/heldout.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines()[:8]:
            text = json.loads(line)["messages"][-1]["content"] + ' {"name": "f", "arguments": {"q": "天气"}} 🙂'
            ids = smollm2._tokenizer.encode(text, add_special_tokens=False).ids
            assert "".join(smollm2.pieces(ids)) == text
            assert len(smollm2.kinds(ids)) == len(ids)


def test_kinds_of_real_tokens_of_a_function_call(smollm2: TokenReader):
    text = '[{"name": "get_weather", "arguments": {"city": "Nairobi", "days": 3}}]<|im_end|>'
    ids = smollm2._tokenizer.encode(text, add_special_tokens=False).ids
    by_kind: dict[str, str] = {}
    for piece, kind in zip(smollm2.pieces(ids), smollm2.kinds(ids), strict=True):
        by_kind[kind] = by_kind.get(kind, "") + piece
    assert by_kind["json_name"] == "get_weather"
    assert by_kind["json_key"] == "nameargumentscitydays"
    assert by_kind["json_value"] == "Nairobi"
    assert by_kind["number"].strip() == "3"
    assert by_kind["special"] == "<|im_end|>"
    assert set(by_kind) <= {"json_name", "json_key", "json_value", "json_structure", "number", "special", "whitespace"}


def test_kinds_of_real_tokens_of_chinese(smollm2: TokenReader):
    ids = smollm2._tokenizer.encode("上海的天气，很好 weather", add_special_tokens=False).ids
    kinds = smollm2.kinds(ids)
    assert len(ids) > 12  # most characters are several tokens
    assert set(kinds) == {"chinese", "punctuation", "content_word"}
    assert kinds.count("content_word") == 1


def test_where_the_shipped_drafts_fail():
    """Kinds that a person would expect to be hard are."""
    calls = slices_of_run(RunFolder(SAMPLES / "serve-function-calling-20261122-183534-e295"), temperature=1.0).sliced
    by_name = {item.name: item for item in calls.slices}
    assert calls.slices[0].name == "json_value"
    assert by_name["json_structure"].rate.value > by_name["json_key"].rate.value > by_name["json_name"].rate.value
    assert sum(item.n_tokens for item in calls.slices) == calls.n_tokens == 2670
    biology = slices_of_run(RunFolder(SAMPLES / "serve-biology-20261122-183032-c638"), temperature=1.0).sliced
    assert biology.slices[0].name == "content_word"
    assert biology.slices[0].gain.low > 0
