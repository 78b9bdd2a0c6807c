"""Kinds of tokens: what each character and each piece of bytes is, on made texts. SmolLM2's tokens: tests/slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.slices.function_words import FUNCTION_WORDS, function_words_of
from engine.slices.kinds import KINDS, kinds_of_characters, kinds_of_pieces
from engine.slices.reading import TokenReader, token_reader
from tests.conftest import byte_tokenizer

LETTERS = {
    **{"json_structure": "S", "json_key": "K", "json_name": "N", "json_value": "V", "number": "0", "chinese": "Z"},
    **{"code": "C", "function_word": "f", "content_word": "w", "punctuation": ".", "whitespace": "_", "special": "X"},
    "broken": "?",
}


def marked(text: str) -> str:
    """A letter for the kind of each character."""
    return "".join(LETTERS[kind] for kind in kinds_of_characters(text))


def test_each_kind_has_a_letter_here():
    assert set(LETTERS) == set(KINDS)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ('{"name": "f", "arguments": {"n": 3}}', "SSKKKKSS_SNSS_SKKKKKKKKKSS_SSKSS_0SS"),
        ('[{"a": true}]', "SSSKSS_VVVVSS"),
        ('{"a": "1 b"}', "SSKSS_SV_VSS"),  # a number inside a text is text
        ('{"a": [1.5, -2e3]}', "SSKSS_S000S_0000SS"),
        ('{"a": "x\\"y"}', "SSKSS_SVVVVSS"),  # an escaped quote does not end it
        ('{"a": "好"}', "SSKSS_SVSS"),
        ("The tree is 12.5 m.", "fff_wwww_ff_0000_w."),
        ("Don't go", "fffff_ww"),
        ("see [1] and {x}", "www_.0._fff_.w."),  # brackets in prose are no JSON
        ("use `x = 1`!", "www_CC_C_CC."),
        ("```python\nx: 1\n``` ok", "CCCCCCCCC_CC_C_CCC_ww"),
        ('```json\n{"a": 1}\n```', "CCCCCCC_SSKSS_0S_CCC"),
        ("<tool_call>hi</tool_call>", "X" * 11 + "ww" + "X" * 12),
        ("他说hello，3 天", "ZZwwwww.0_Z"),
        ("好\ufffd", "Z?"),
        ("", ""),
    ],
)
def test_the_kind_of_each_character(text: str, kinds: str):
    assert marked(text) == kinds


@pytest.mark.parametrize("text", ['{"name": "get_new', '{"name": "f", "argum', '{"a": {"b": [1, 2', '{"a": "x\\', '{"'])
def test_json_that_is_cut_off_is_read_as_far_as_it_goes(text: str):
    whole = marked(text + "  ")[: len(text)] if text.endswith("new") else marked(text)
    assert set(marked(text)) <= set("SKNV0_")
    assert whole == marked(text)


def test_json_that_breaks_off_inside_goes_on_as_prose():
    assert marked('{"a": oops the end') == "SSKSS_wwww_fff_www"


def test_only_the_name_of_the_call_is_a_name():
    call = '{"name": "book", "arguments": {"name": "Bob", "function": "sin"}}'
    kinds = kinds_of_characters(call)
    assert kinds[call.index("book")] == "json_name"
    assert kinds[call.index("Bob")] == "json_value"
    assert kinds[call.index("sin")] == "json_value"
    second = '[{"name": "a", "arguments": {}}, {"name": "other"}]'
    assert kinds_of_characters(second)[second.index("other")] == "json_name"


def test_the_language_of_a_text_decides_what_a_function_word_is():
    assert marked("die Katze und der Hund") == "fff_wwwww_fff_fff_wwww"
    assert marked("the plants die and the sun") == "fff_wwwwww_www_fff_fff_www"
    assert function_words_of(["xyz"]) == FUNCTION_WORDS["en"]
    assert not any(word != word.lower() for words in FUNCTION_WORDS.values() for word in words)


def test_a_token_is_what_most_of_its_characters_are_and_space_belongs_to_the_word():
    pieces = ['{"', "name", '":', ' "', "f", '"}', "\n", " the", " xyzzy", ".)"]
    expected = ["json_structure", "json_key", *["json_structure"] * 2, "json_name", "json_structure"]
    expected += ["whitespace", "function_word", "content_word", "punctuation"]
    assert kinds_of_pieces(pieces, [False] * len(pieces)) == expected


def test_a_token_that_ends_inside_a_character_is_of_the_character_s_kind():
    assert kinds_of_pieces(["", "", " 你", "", "好", "", "，", ""], [False] * 8) == [
        *["chinese"] * 5,
        *["punctuation"] * 2,
        "broken",  # the answer ends here
    ]


def test_a_special_token_is_no_part_of_the_text():
    assert kinds_of_pieces(['{"abc', "<|x|>", '": 1}'], [False, True, False])[::2] == ["json_key", "json_structure"]
    assert kinds_of_pieces(["", "<|end|>"], [False, True]) == ["broken", "special"]


def test_an_id_that_the_tokenizer_does_not_have_is_refused(tiny_target_folder: Path):
    reader = token_reader(ModelSpec(model=str(tiny_target_folder)))
    assert reader.kinds([0, 1]) == ("special", "special")
    with pytest.raises(DraftbenchError, match="holds token 70000"):
        reader.kinds([1, 70_000])


def test_a_target_that_is_gone_says_what_works_without_it():
    with pytest.raises(DraftbenchError, match="tokenizer cannot be read") as refused:
        token_reader(ModelSpec(model="no/such/folder"))
    assert "position" in refused.value.fix


def test_a_tokenizer_without_the_fast_form_reads_the_same():
    slow = byte_tokenizer()
    reader = TokenReader(slow, frozenset(slow.all_special_ids), len(slow))
    ids = slow('{"a": 好}')["input_ids"]
    assert "".join(reader.pieces(ids)) == '{"a": 好}'
    assert reader.kinds([*ids, 1])[-1] == "special"
