"""The tokenizer of a target: its base's, or that of its adapter, and whether its ids are ids of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.chat.template_date import apply_template
from engine.chat.template_safety import check_template
from engine.errors import DraftbenchError, boundary
from engine.models.folder import check_files, check_settings, read_object

_FIX = (
    "the folder needs tokenizer.json or its family's own files; one of a newer version needs a newer tokenizers package"
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_TEMPLATE = "chat_template.jinja"


def read_tokenizer(folder: Path, *, trust_remote_code: bool = False, settings: bool = True) -> Any:
    """The tokenizer in a folder. Raises DraftbenchError if it cannot be read or its chat template is out of bounds.

    `settings`: the folder is a model's, with a `config.json` that is looked at first.
    """
    from transformers import AutoTokenizer

    if settings:
        check_settings(folder)
    else:
        check_files(folder)
    with boundary(f"could not load the tokenizer of {folder}", _FIX):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        size = len(tokenizer)
        tokenizer("a")
    if size == 0:
        raise DraftbenchError(f"could not load the tokenizer of {folder}", "it knows no tokens", _FIX)
    check_template(tokenizer, str(folder))
    return tokenizer


def adapted_tokenizer(base: Any, folder: Path, name: str) -> Any:
    """The tokenizer of a base with the adapter in `folder`: prompts are written the way the adapter was trained.

    An adapter that brings a tokenizer is used with it, if its ids mean what the base's mean; one that brings a chat
    template alone, with that. Raises DraftbenchError where the ids differ.
    """
    check_files(folder)
    if any((folder / file).exists() for file in _TOKENIZER_FILES):
        own = read_tokenizer(folder, settings=False)
        _check_same_ids(base, own, name)
        if not own.chat_template:
            own.chat_template = base.chat_template
        return own
    template = _own_template(folder, name)
    if template is not None:
        base.chat_template = template
        check_template(base, name)
    return base


def _own_template(folder: Path, name: str) -> Any:
    if (folder / _TEMPLATE).is_file():
        with boundary(f"could not read the chat template of the adapter {name}", "save it as UTF-8 text"):
            return (folder / _TEMPLATE).read_text(encoding="utf-8")
    if (folder / "tokenizer_config.json").is_file():
        return read_object(folder / "tokenizer_config.json").get("chat_template")
    return None


def _check_same_ids(base: Any, own: Any, name: str) -> None:
    mine, theirs = own.get_vocab(), base.get_vocab()
    moved = [token for token, i in theirs.items() if mine.get(token) != i]
    if moved:
        token = min(moved, key=lambda token: theirs[token])
        raise DraftbenchError(
            f"the adapter {name} has a tokenizer with other ids than its base: {token!r} is {theirs[token]} in the base "
            f"and {mine.get(token, 'unknown')} in the adapter's ({len(moved):,} differ)",
            "the base's weights read ids, and would read other words",
            "give the adapter's own base, or take the tokenizer's files out of the adapter's folder",
        )


def beyond(tokenizer: Any, rows: int) -> dict[str, int]:
    """The tokens whose ids a model with that many embeddings has no row for."""
    return {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}


def check_ids(tokenizer: Any, rows: int, label: str) -> None:
    """Refuse a tokenizer that writes ids which the model has no embedding for, in any prompt at all.

    A few added tokens beyond the embeddings are common (a padding token nobody writes); a prompt that holds one is
    refused where it is rendered. But those of the chat template are in every prompt.
    """
    lost = beyond(tokenizer, rows)
    if not lost:
        return
    written = _written_by_template(tokenizer)
    needed = sorted(
        {i for i in [*written, tokenizer.bos_token_id, tokenizer.eos_token_id] if i is not None and i >= rows}
    )
    plain = [token for token in lost if token not in tokenizer.get_added_vocab()]
    if not needed and not plain:
        return
    example = plain[0] if plain else tokenizer.convert_ids_to_tokens(needed[0])
    raise DraftbenchError(
        f"could not load {label}: its tokenizer has {len(lost):,} tokens beyond the model's {rows:,} embeddings, "
        f"such as {example!r} ({lost.get(example, needed[0] if needed else rows)})",
        "every prompt would hold ids that the model cannot read",
        "give the tokenizer the model was trained with, or the weights whose embeddings were resized for this one",
    )


def _written_by_template(tokenizer: Any) -> list[int]:
    if not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    try:
        text = apply_template(tokenizer, turns, add_generation_prompt=True)
    except Exception:  # a template that wants other turns says so when a prompt is rendered
        return []
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
