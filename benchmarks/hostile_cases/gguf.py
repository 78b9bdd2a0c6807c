"""Hostile GGUF files: one valid file, and every way in which its header can be wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.hostile_cases.case import Case
from engine.errors import DraftbenchError

HUGE = (2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
Change = Callable[[bytes], bytes]


def cases() -> list[Case]:
    """About 250 files: cut off, with wrong counts, lengths, types or dimensions, or with wrong sets of tensors."""
    changes = [*_cuts(), *_numbers(), *_bytes(), *_settings(), *_arrays(), *_tensors()]
    return [Case(name, _attempt(change)) for name, change in changes] + [
        Case("the valid file itself", _attempt(lambda raw: raw, good=True)),
        Case("a folder in the file's place", _folder),
        Case("a part of three", _part),
    ]


def _attempt(change: Change, *, good: bool = False) -> Callable[[Path], None]:
    def attempt(folder: Path) -> None:
        path = folder / "m.gguf"
        path.write_bytes(change(_valid()))
        _use(path, good)

    return attempt


def _use(path: Path, good: bool = False) -> None:
    import torch

    from engine.config.schema import ModelSpec
    from engine.models.load import load_model
    from tests.conftest import tiny_llama

    ids = torch.tensor([[0, 5, 7, 90, 33]])
    try:
        logits = load_model(ModelSpec(model=str(path), dtype="float32", device="cpu")).model(input_ids=ids).logits
    except DraftbenchError:
        cache_folder = path.parent / "cache" / "models"
        kept = [p for p in cache_folder.iterdir() if p.is_dir()] if cache_folder.exists() else []
        # a file whose tensors are all there may be kept; what is wrong is then in its tokenizer or settings
        assert not good, "the valid file was refused"
        assert not any(p.name.startswith(".") for p in kept), "a conversion was left half made"
        raise
    off = float((logits - tiny_llama(vocab=259)(input_ids=ids).logits).abs().max())
    assert off < 1e-5 or not good, f"logits are {off:.3g} from the model's"


def _folder(folder: Path) -> None:
    (folder / "m.gguf").mkdir()
    _use(folder / "m.gguf")


def _part(folder: Path) -> None:
    path = folder / "m-00002-of-00003.gguf"
    path.write_bytes(_valid())
    _use(path)


@cache
def _valid() -> bytes:
    import tempfile

    from tests.conftest import byte_tokenizer, tiny_llama
    from tests.tiny_gguf import write_gguf

    with tempfile.TemporaryDirectory() as folder:
        return write_gguf(Path(folder) / "m.gguf", tiny_llama(vocab=259), byte_tokenizer()).read_bytes()


def _pack(value: Any, form: str) -> bytes:
    return struct.pack("<" + form, value)


def _put(offset: int, new: bytes) -> Change:
    return lambda raw: raw[:offset] + new + raw[offset + len(new) :]


def _key(name: str) -> int:
    """Where the type of a key's value stands in the valid file."""
    return _valid().index(_pack(len(name), "Q") + name.encode()) + 8 + len(name)


def _entry(name: str) -> int:
    """Where the number of a tensor's dimensions stands."""
    return _key(name)


def _cuts() -> Iterator[tuple[str, Change]]:
    size = len(_valid())
    places = sorted({*range(0, 64, 4), *(size * i // 40 for i in range(40)), size - 1, size - 33})
    for place in places:
        yield f"cut at byte {place}", lambda raw, place=place: raw[:place]  # type: ignore[misc]
    yield "followed by a megabyte of nothing", lambda raw: raw + bytes(1_000_000)
    yield "with a hole of a page", lambda raw: raw[:20_000] + bytes(4096) + raw[24_096:]


def _numbers() -> Iterator[tuple[str, Change]]:
    for what, offset in (("tensors", 8), ("keys", 16), ("length of the first key", 24)):
        for value in (0, 1, 2, 1000, *HUGE):
            yield f"{what}: {value}", _put(offset, _pack(value, "Q"))
    for version in (0, 1, 4, 2**31, 0x03000000):
        yield f"version {version}", _put(4, _pack(version, "I"))
    yield "another mark", _put(0, b"GGML")


def _bytes() -> Iterator[tuple[str, Change]]:
    """One byte of the header turned round, all over it."""
    end = _valid().index(b"token_embd.weight") + 4_000
    for place in range(0, end, max(1, end // 60)):
        yield (
            f"byte {place} turned round",
            lambda raw, place=place: (  # type: ignore[misc]
                raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :]
            ),
        )


def _settings() -> Iterator[tuple[str, Change]]:
    """Settings of the model: another value in the same place."""
    names = (
        "llama.block_count",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.head_count_kv",
        "llama.context_length",
        "llama.vocab_size",
        "llama.rope.dimension_count",
    )
    for name in names:
        for value in (0, 1, 3, 100_000, 2**31 - 1, 2**32 - 1):
            yield f"{name} = {value}", _put(_key(name) + 4, _pack(value, "I"))
        yield f"{name} as a text", _put(_key(name), _pack(8, "I"))
        yield f"{name} of type 77", _put(_key(name), _pack(77, "I"))
    yield (
        "rms epsilon is not a number",
        _put(_key("llama.attention.layer_norm_rms_epsilon") + 4, _pack(float("nan"), "f")),
    )
    yield "rope base is 0", _put(_key("llama.rope.freq_base") + 4, _pack(0.0, "f"))
    for architecture in (b"llamb", b"bert\0", b"../..", b"gemma", b"\xff\xfe\xfd\xfc\xfb"):
        yield f"architecture {architecture!r}", _put(_key("general.architecture") + 12, architecture)
    for name in ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"):
        yield f"{name} beyond the vocabulary", _put(_key(name) + 4, _pack(2**31, "I"))
    yield (
        "a template that does not end",
        _template("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
    )
    yield (
        "a template that doubles",
        _template("{% set n = namespace(x='aaaa') %}{% for m in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"),
    )
    yield "a template that is none", _template("{% for %}")


def _template(text: str) -> Change:
    def change(raw: bytes) -> bytes:
        at = _key("tokenizer.chat_template") + 4
        room = struct.unpack("<Q", raw[at : at + 8])[0]
        assert len(text) <= room
        return raw[: at + 8] + text.ljust(room).encode() + raw[at + 8 + room :]

    return change


def _arrays() -> Iterator[tuple[str, Change]]:
    for name in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"):
        for count in (0, 1, 10_000_000, *HUGE):
            yield f"{name}: {count} elements", _put(_key(name) + 8, _pack(count, "Q"))
        for kind in (0, 9, 12, 99):
            yield f"{name}: elements of type {kind}", _put(_key(name) + 4, _pack(kind, "I"))
        yield f"{name}: its first element is endless", _put(_key(name) + 16, _pack(2**62, "Q"))
    yield "a hundred thousand numbers in a list", _longer(100_000)
    yield "a million numbers in a list", _longer(1_000_000)
    yield "twenty million numbers in a list", _longer(20_000_000)


def _longer(count: int) -> Change:
    """One more key, first of all: a list of that many bytes."""
    name = b"general.padding"
    entry = _pack(len(name), "Q") + name + _pack(9, "I") + _pack(0, "I") + _pack(count, "Q") + bytes(count)
    return lambda raw: raw[:16] + _pack(struct.unpack("<Q", raw[16:24])[0] + 1, "Q") + entry + raw[24:]


def _tensors() -> Iterator[tuple[str, Change]]:
    name = "token_embd.weight"
    start = _entry(name)
    for count in (0, 1, 3, 5, 1000, 2**32 - 1):
        yield f"a tensor of {count} dimensions", _put(start, _pack(count, "I"))
    for size in (0, 1, 31, 33, *HUGE):
        yield f"a tensor of width {size}", _put(start + 4, _pack(size, "Q"))
        yield f"a tensor of {size} rows", _put(start + 12, _pack(size, "Q"))
    for kind in (1, 2, 8, 14, 24, 30, 39, 999, 2**32 - 1):
        yield f"a tensor of type {kind}", _put(start + 20, _pack(kind, "I"))
    for offset in (1, 32, 2**20, *HUGE):
        yield f"a tensor at {offset}", _put(start + 24, _pack(offset, "Q"))
    other = "output_norm.weight"
    for new in ("output_norm.weighs", "blk.0.ffn_norm.wei", "a" * 18):
        yield f"{other} named {new}", _put(_entry(other) - len(other), new.encode())
    yield "a layer named twice", lambda raw: raw.replace(b"blk.3.attn_norm", b"blk.2.attn_norm")
    yield "layers that begin at 1", lambda raw: raw.replace(b"blk.0.", b"blk.9.")
    yield "weights that are not numbers", lambda raw: raw[:-40_000] + b"\xff" * 40_000
