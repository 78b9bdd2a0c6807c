"""Shared fixtures: a tiny random pair on disk, a byte tokenizer made in code, a home of its own for every test."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, then those with many: no worker begins a long file when the others are done.

    Workers take whole files in this order (`--dist loadfile --no-loadscope-reorder`). A test that asks for a finished
    run is slow, whichever of them makes it.
    """
    for item in items:
        if "finished" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
    tests, slow = Counter(item.path for item in items), Counter(item.path for item in items if is_slow(item))
    items.sort(key=lambda item: (not slow[item.path], -tests[item.path], item.path))


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


@pytest.fixture(autouse=True)
def own_folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """No test can touch the user's own results or cache.

    A test that asks for no `tmp_path` gets the names of folders that nobody has made: most never write to them, and
    to make and remove a folder takes longer than many a test.
    """
    asks = "tmp_path" in request.fixturenames
    own = request.getfixturevalue("tmp_path") if asks else tmp_path_factory.getbasetemp() / f"own-{next(_numbers)}"
    monkeypatch.setenv("DRAFTBENCH_HOME", str(own / "home"))
    monkeypatch.setenv("DRAFTBENCH_CACHE", str(own / "cache"))
    yield
    if not asks and own.exists():
        shutil.rmtree(own)


_numbers = itertools.count()


def byte_tokenizer(template: str | None = CHATML) -> Any:
    """A byte-level tokenizer without merges: 256 byte tokens and the two ChatML marks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|im_start|>": 0, "<|im_end|>": 1, **{symbol: i + 2 for i, symbol in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    wrapped.chat_template = template
    return wrapped


def tiny_llama(*, layers: int = 4, vocab: int = 258, seed: int = 0, **changes: Any) -> Any:
    """A random Llama of a few thousand parameters, float32, in evaluation mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval().requires_grad_(False)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder for all tests of a session, made by whichever worker asks for it first. Tests only read it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            try:
                folder.mkdir()
                make(folder)
            except BaseException:
                shutil.rmtree(folder)
                raise
    return folder


@pytest.fixture(scope="session")
def tiny_target_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny target with its tokenizer, saved as a Hugging Face folder."""

    def make(folder: Path) -> None:
        tiny_llama().save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)

    return made_once(tmp_path_factory, "tiny-target", make)
