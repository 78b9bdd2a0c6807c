"""Do target and draft mean the same by an id? Ids are probed, sizes prove nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from engine.errors import DraftbenchError
from engine.models.vocabulary import align_logits, check_vocabulary
from tests.conftest import byte_tokenizer


def changed(edit: Any) -> PreTrainedTokenizerFast:
    """The byte tokenizer with its JSON form edited."""
    form = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    edit(form)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(form)))


def swap(form: dict[str, Any]) -> None:
    vocab = form["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def test_a_tokenizer_agrees_with_itself():
    check_vocabulary(byte_tokenizer(), byte_tokenizer())


def test_equal_size_with_two_ids_swapped_is_refused():
    other = changed(swap)
    assert len(other) == len(byte_tokenizer())
    with pytest.raises(DraftbenchError, match=r"2 of 258 ids differ; id \d+ is 'a' in the target and 'b' in the draft"):
        check_vocabulary(byte_tokenizer(), other)


def test_equal_ids_with_another_splitting_are_refused():
    def merge(form: dict[str, Any]) -> None:
        form["model"]["vocab"]["th"] = 258
        form["model"]["merges"] = []

    same_ids = changed(merge)
    merging = changed(lambda form: (merge(form), form["model"].update(merges=[["t", "h"]])))
    with pytest.raises(DraftbenchError, match="split differently"):
        check_vocabulary(same_ids, merging)


def test_a_beginning_of_sequence_token_that_only_one_side_adds_is_noticed():
    from tokenizers.processors import TemplateProcessing

    other = byte_tokenizer()
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    with pytest.raises(DraftbenchError, match="split differently"):
        check_vocabulary(byte_tokenizer(), other)


@pytest.mark.parametrize("wider", ["target", "draft"])
def test_a_token_that_only_one_side_knows_is_refused(wider: str):
    more = byte_tokenizer()
    more.add_tokens(["<tool_call>"])
    pair = (more, byte_tokenizer()) if wider == "target" else (byte_tokenizer(), more)
    with pytest.raises(DraftbenchError, match="<tool_call>"):
        check_vocabulary(*pair)


def test_the_probes_reach_digits_other_scripts_and_white_space():
    """Splitting digits one by one, as some families do, changes only texts with numbers."""

    def grouped(form: dict[str, Any]) -> None:
        form["model"]["vocab"]["**"] = 258
        form["model"]["merges"] = [["*", "*"]]

    one, other = changed(grouped), changed(grouped)
    single = pre_tokenizers.Split(Regex(r"\*"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([single, byte_level])
    with pytest.raises(DraftbenchError, match="split differently"):
        check_vocabulary(one, other)


def test_padded_rows_are_no_tokens():
    """Models differ in rows, their tokenizers do not: what counts is the tokenizer."""
    draft_logits = torch.randn(2, 3, 258)
    wide = align_logits(draft_logits, 264)
    assert wide.shape == (2, 3, 264)
    assert torch.equal(wide[..., :258], draft_logits)
    assert torch.equal(torch.softmax(wide, -1)[..., 258:], torch.zeros(2, 3, 6))
    assert torch.equal(align_logits(wide, 258), draft_logits)
