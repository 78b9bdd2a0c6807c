"""The tokenizer of a model as the metadata of a GGUF file.

Copied from the target's own GGUF file where that has the same texts by id. Else it is made from the tokenizer, if that
is byte-level BPE with a pre-tokenizer that llama.cpp is known to have: it splits text by a rule of its own for each
name in `tokenizer.ggml.pre`, and under a wrong name it would silently read other tokens.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType, GGUFWriter, TokenType

from engine.errors import DraftbenchError

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The name that llama.cpp has for each way to split a text before merging (src/llama-vocab.cpp).
_PRE_TOKENIZERS = {
    (("ByteLevel", True),): "gpt-2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("Split", _WORDS + r"|\p{N}{1,3}" + _REST), ("ByteLevel", False)): "llama-bpe",
    (("Split", _WORDS + r"|\p{N}" + _REST), ("ByteLevel", False)): "qwen2",
}


@dataclass(frozen=True)
class Field:
    """A value of the metadata with its type; `element`: that of a list's elements."""

    value: Any
    kind: GGUFValueType
    element: GGUFValueType | None = None


Fields = dict[str, Field]


def tokenizer_fields(
    tokenizer: Any, rows: int, *, source: Path | None = None, stop_ids: Collection[int] = ()
) -> tuple[Fields, list[str]]:
    """The metadata `tokenizer.*` for a model with `rows` ids, and what of the tokenizer it cannot hold, in sentences.

    `source`: the GGUF file that the tokenizer was read from. `stop_ids`: what ends an answer. Ids without a token get a
    text that is never read. Raises DraftbenchError for a tokenizer that llama.cpp has no rule for.
    """
    original = _of_file(source) if source is not None else {}
    texts = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    same = _PREFIX + "tokens" in original and original[_PREFIX + "tokens"].value[: len(texts)] == texts
    fields = original if same else _byte_level_bpe(tokenizer, original)
    fields = _with_rows(fields, rows)
    ends, notes = _special_ids(tokenizer, stop_ids)
    fields |= ends
    fields |= _added_around(tokenizer)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        notes.append(f"of {len(template)} chat templates only the default one is in the file")
        template = template.get("default")
    fields.pop(_TEMPLATE, None)
    if template:
        fields[_TEMPLATE] = Field(template, GGUFValueType.STRING)
    return fields, notes


def write_fields(writer: GGUFWriter, fields: Fields) -> None:
    """Add the values to a file that is being written."""
    for key, field in fields.items():
        if field.kind != GGUFValueType.ARRAY or len(field.value):
            writer.add_key_value(key, field.value, field.kind, field.element)


def _of_file(path: Path) -> Fields:
    fields = {}
    for key, field in GGUFReader(path).fields.items():
        if key.startswith("tokenizer."):
            element = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
            fields[key] = Field(field.contents(), field.types[0], element)
    return fields


def _byte_level_bpe(tokenizer: Any, original: Fields) -> Fields:
    """The metadata of a byte-level BPE tokenizer. `original`: of the file it was made from, which names the rule."""
    state = _state(tokenizer)
    model = state["model"]
    if model.get("type") != "BPE" or "ByteLevel" not in [step["type"] for step in _steps(state)]:
        raise _unknown(f"it is {model.get('type')} without byte-level pre-tokenizer")
    named = original.get(_PREFIX + "pre")
    pre = named.value if named is not None else _pre_tokenizer(state)
    vocabulary = {i: text for text, i in model["vocab"].items()}
    kinds = dict.fromkeys(vocabulary, TokenType.NORMAL)
    for added in state["added_tokens"]:
        vocabulary[added["id"]] = added["content"]
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    ids = range(max(vocabulary) + 1)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        _PREFIX + "model": Field("gpt2", GGUFValueType.STRING),
        _PREFIX + "pre": Field(pre, GGUFValueType.STRING),
        _PREFIX + "add_space_prefix": Field(False, GGUFValueType.BOOL),
        _PREFIX + "tokens": _list([vocabulary.get(i, _unused(i)) for i in ids], GGUFValueType.STRING),
        _PREFIX + "token_type": _list([int(kinds.get(i, TokenType.UNUSED)) for i in ids], GGUFValueType.INT32),
        _PREFIX + "merges": _list(merges, GGUFValueType.STRING),
    }


def _state(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unknown(f"{type(tokenizer).__name__} has no tokenizer.json")
    state: dict[str, Any] = json.loads(backend.to_str())
    return state


def _steps(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of the pre-tokenizer, in order."""
    first = state.get("pre_tokenizer") or {"type": "none"}
    return list(first["pretokenizers"]) if first["type"] == "Sequence" else [first]


def _pre_tokenizer(state: dict[str, Any]) -> str:
    """llama.cpp's name for the way that the tokenizer splits a text."""
    rule = tuple((step["type"], _setting(step)) for step in _steps(state))
    if rule not in _PRE_TOKENIZERS or any(step.get("add_prefix_space") for step in _steps(state)):
        raise _unknown("its pre-tokenizer is none of " + ", ".join(_PRE_TOKENIZERS.values()))
    return _PRE_TOKENIZERS[rule]


def _setting(step: dict[str, Any]) -> Any:
    """The one setting of a step that decides how it splits."""
    if step["type"] == "Split":
        return step["pattern"].get("Regex")
    return step.get("individual_digits" if step["type"] == "Digits" else "use_regex")


def _with_rows(fields: Fields, rows: int) -> Fields:
    """The lists of tokens with an entry for each row of the embeddings."""
    filled = dict(fields)
    have = len(fields[_PREFIX + "tokens"].value)
    if have > rows:
        raise _unknown(f"it has {have:,} tokens and the model {rows:,} rows")
    more: dict[str, list[Any]] = {
        "tokens": [_unused(i) for i in range(have, rows)],
        "token_type": [int(TokenType.UNUSED)] * (rows - have),
        "scores": [-1e4] * (rows - have),
    }
    for name, values in more.items():
        field = fields.get(_PREFIX + name)
        if field is not None:
            assert field.element is not None
            filled[_PREFIX + name] = _list([*field.value, *values], field.element)
    return filled


def _special_ids(tokenizer: Any, stop_ids: Collection[int]) -> tuple[Fields, list[str]]:
    """The ids with a meaning. Answers end at eos, eot and eom; with more ids than these, the others are named."""
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    others = sorted(set(stop_ids) - {ids["eos"]})
    ends = ("eot", "eom") if ids["eos"] is not None else ("eos", "eot", "eom")
    ids.update(zip(ends, others, strict=False))
    notes = []
    if left := others[len(ends) :]:
        notes.append(
            "llama.cpp has no place for the ids "
            + ", ".join(map(str, left))
            + ", which also end an answer of the target; it stops at them only if it knows their texts"
        )
    return {
        f"{_PREFIX}{name}_token_id": Field(int(i), GGUFValueType.UINT32) for name, i in ids.items() if i is not None
    }, notes


def _added_around(tokenizer: Any) -> Fields:
    """Whether the tokenizer itself puts bos and eos around a text, as it does for plain prompts."""
    ids = tokenizer("a")["input_ids"]
    ends = {"bos": ids[:1], "eos": ids[-1:]}
    return {
        f"{_PREFIX}add_{name}_token": Field(at == [getattr(tokenizer, f"{name}_token_id")], GGUFValueType.BOOL)
        for name, at in ends.items()
    }


def _list(values: Sequence[Any], element: GGUFValueType) -> Field:
    return Field(list(values), GGUFValueType.ARRAY, element)


def _unused(i: int) -> str:
    return f"[PAD{i}]"


def _unknown(why: str) -> DraftbenchError:
    return DraftbenchError(
        "the tokenizer cannot be written into a GGUF file",
        f"{why}; llama.cpp would split text in another way than the target was measured with",
        "give the target as a .gguf file, whose tokenizer is copied, or export for transformers and convert that "
        "folder with llama.cpp's convert_hf_to_gguf.py",
    )
