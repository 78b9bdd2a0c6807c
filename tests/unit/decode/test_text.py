"""Readable pieces of an answer that is still being written."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models

from engine.decode.events import Alternative, Fate, Round, Token
from engine.decode.text import TextStream
from tests.conftest import byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXTS = ["plain words , and ' quotes .", "你好，世界", "a🙂b👨‍👩‍👧c", "naïve Zürich\n\n\tend", "  two  spaces "]


def ids_of(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def pieces_of(ids):
    stream = TextStream(TOKENIZER)
    return [stream.emit(token) for token in ids]


@pytest.mark.parametrize("text", [*TEXTS, "一二三四五六七八九十" * 5, "🙂" * 20])
def test_joined_pieces_are_the_text(text):
    pieces = pieces_of(ids_of(text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_comes_with_the_token_that_completes_it():
    assert pieces_of(ids_of("你a🙂")) == ["", "", "你", "a", "", "", "", "🙂"]


def test_a_space_that_only_shows_after_another_word_is_kept():
    # Metaspace tokenizers (Llama 2, Mistral) drop the space before the first word of what they decode.
    model = models.WordLevel(vocab={"▁hello": 0, "▁world": 1, "<unk>": 2}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Metaspace()
    stream = TextStream(tokenizer)
    assert [stream.emit(token) for token in (0, 1, 1)] == ["hello", " world", " world"]
    assert stream.peek([0, 1]) == [" hello", " world"]


def test_special_tokens_show():
    assert pieces_of([*ids_of("ok"), 1]) == ["o", "k", "<|im_end|>"]


def test_joined_pieces_are_the_text_for_bytes_that_make_no_sense():
    # A small or damaged model writes these; the plain letter at the end completes whatever is held back.
    rng = random.Random(0)
    high = [token for token in range(2, 258) if TOKENIZER.decode([token]) == "\ufffd"]
    for _ in range(100):
        ids = [rng.choice(high) for _ in range(60)] + ids_of("a")
        pieces = pieces_of(ids)
        assert "".join(pieces) == TOKENIZER.decode(ids)
        assert any(pieces[:40])  # nobody waits for the end


def test_peek_tells_what_other_tokens_would_have_shown_and_leaves_the_stream_as_it_was():
    first, second, third = ids_of("你")
    stream = TextStream(TOKENIZER)
    stream.emit(first)
    assert stream.peek([second, third, *ids_of("!")]) == ["", "你", "!"]
    assert stream.peek(ids_of("x")) == ["\ufffdx"]
    assert stream.emit(second) == ""
    assert stream.emit(third) == "你"


@pytest.mark.parametrize("text", ["long text before it, " * 3, "一二三四五六七八九十"])
def test_peek_far_into_a_text(text):
    stream = TextStream(TOKENIZER)
    for token in ids_of(text):
        stream.emit(token)
    stream.emit(ids_of("🙂")[0])
    assert stream.peek(ids_of("🙂")[1:]) == ["", "", "🙂"]
    assert stream.peek([]) == []


def test_bytes_that_nothing_completes_come_out_at_the_end():
    stream = TextStream(TOKENIZER)
    first = ids_of("你")[0]
    assert [stream.emit(ids_of("a")[0]), stream.emit(first)] == ["a", ""]
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_a_round_is_read_token_by_token_with_what_could_have_come_instead():
    one, two, three = ids_of("你")
    x, y = ids_of("xy")
    stream = TextStream(TOKENIZER)
    stream.emit(one)
    tokens = (
        Token(two, Fate.ACCEPTED, 1, alternatives=(Alternative(x, 0.5, 0.5),)),
        Token(x, Fate.REJECTED, 2, alternatives=(Alternative(three, 0.5, 0.5), Alternative(y, 0.5, 0.5))),
        Token(y, Fate.DISCARDED, 3),
        Token(one, Fate.CORRECTED, 2),
    )
    read = stream.read(Round(0, 0, 3, tokens, 0, 0, 0, finish_reason="length"))
    assert [token.text for token in read.tokens] == ["", "\ufffdx", "y", TOKENIZER.decode([one, two, one])]
    alternatives = [[other.text for other in token.alternatives] for token in read.tokens]
    assert alternatives == [["\ufffdx"], ["你", "\ufffdy"], [], []]
