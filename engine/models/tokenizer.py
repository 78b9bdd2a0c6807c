"""Load the tokenizer of a target, its base's or that of its adapter, and check that its ids are ids of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.chat.template_date import apply_template
from engine.chat.template_safety import check_template
from engine.chat.token_ids import token_ids
from engine.errors import DraftbenchError, boundary
from engine.fileio import read_object
from engine.models.folder import SETTINGS_BYTES, check_files, check_settings

_FIX = (
    "the folder needs tokenizer.json or its family's own files; one of a newer version needs a newer tokenizers package"
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_TEMPLATE = "chat_template.jinja"


def read_tokenizer(folder: Path, *, trust_remote_code: bool = False, settings: bool = True) -> Any:
    """Load the tokenizer in a folder. Raises DraftbenchError if it cannot be read or its chat template is unsafe.

    `settings`: the folder is a model's, whose `config.json` is checked first.
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
        raise DraftbenchError(f"could not load the tokenizer of {folder}", "it has no tokens", _FIX)
    check_template(tokenizer, str(folder))
    return tokenizer


def adapted_tokenizer(base: Any, folder: Path, name: str) -> Any:
    """Return the tokenizer of a base with the adapter in `folder`, so that prompts are written as in its training.

    An adapter's own tokenizer is used if its ids mean the same as the base's, and so is a chat template without a
    tokenizer. Raises DraftbenchError if the ids differ.
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
        return _by_name(read_object(folder / "tokenizer_config.json", SETTINGS_BYTES).get("chat_template"))
    return None


def _by_name(template: Any) -> Any:
    """Named templates, which are kept as a list, by their names, as Transformers reads them; anything else as it is."""
    if not isinstance(template, list) or not all(isinstance(one, dict) for one in template):
        return template
    return {str(one.get("name")): one.get("template") for one in template}


def _check_same_ids(base: Any, own: Any, name: str) -> None:
    own_ids, base_ids = own.get_vocab(), base.get_vocab()
    moved = [token for token, i in base_ids.items() if own_ids.get(token) != i]
    if moved:
        token = min(moved, key=lambda token: base_ids[token])
        raise DraftbenchError(
            f"the adapter {name} has a tokenizer with other ids than its base: {token!r} is {base_ids[token]} in the "
            f"base and {own_ids.get(token, 'unknown')} in the adapter's ({len(moved):,} differ)",
            "the base's weights read ids, which would stand for other words",
            "use the adapter's own base, or remove the tokenizer's files from the adapter's folder",
        )


def beyond(tokenizer: Any, rows: int) -> dict[str, int]:
    """The tokens whose ids have no row in a model with that many embeddings."""
    return {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}


def check_ids(tokenizer: Any, rows: int, label: str) -> None:
    """Refuse a tokenizer that writes ids without an embedding in every prompt.

    A few added tokens beyond the embeddings are common (a padding token that is never written); a prompt with one is
    refused when it is rendered. But tokens of the chat template are in every prompt.
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
        "every prompt would contain ids that the model cannot read",
        "use the tokenizer that the model was trained with, or the weights whose embeddings were resized for this one",
    )


def _written_by_template(tokenizer: Any) -> list[int]:
    if not tokenizer.chat_template:
        return []
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    try:
        text = apply_template(tokenizer, turns, add_generation_prompt=True)
        return token_ids(tokenizer, text, "the chat template's text")
    except Exception:  # a template that needs other turns, or writes what has no token: `render` reports it
        return []
