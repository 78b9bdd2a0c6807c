"""GGUF files as model folders: the values they hold, nothing made up, nothing left out, little memory."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.fileio import sha256_file
from engine.models.gguf import _llama3_stretch, gguf_as_folder
from engine.models.gguf_header import read_header
from engine.models.load import load_model
from engine.models.tensor_file import TensorFile, TensorPlan
from tests.conftest import byte_tokenizer, tiny_llama
from tests.tiny_gguf import gguf_tensors, write_gguf

pytestmark = pytest.mark.slow

IDS = torch.tensor([[0, 5, 7, 90, 33]])


def model_of(path: Path) -> Any:
    return load_model(ModelSpec(model=str(path), dtype="float32", device="cpu")).model


def tiny(**changes: Any) -> Any:
    return tiny_llama(vocab=259, **changes)


@pytest.mark.parametrize("tied", [True, False])
def test_a_float32_file_becomes_the_same_model(tmp_path: Path, tied: bool):
    model = tiny(tie_word_embeddings=tied)
    result = model_of(write_gguf(tmp_path / "a.gguf", model, byte_tokenizer()))
    assert torch.equal(result(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize(("kind", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16), ("Q8_0", torch.float32)])
def test_matrices_keep_the_precision_of_the_file(tmp_path: Path, kind: str, dtype: torch.dtype):
    import gguf

    model = tiny()
    folder = gguf_as_folder(write_gguf(tmp_path / "a.gguf", model, byte_tokenizer(), kind=kind))
    state = load_file(folder / "model.safetensors")
    quantised = gguf.GGMLQuantizationType[kind]
    for name, tensor in model.named_parameters():
        if tensor.dim() == 1:
            assert torch.equal(state[name], tensor)
        else:
            stored = gguf.quants.dequantize(gguf.quants.quantize(tensor.detach().numpy(), quantised), quantised)
            assert state[name].dtype == dtype
            assert torch.equal(state[name].float(), torch.from_numpy(stored))
    assert load_model(ModelSpec(model=str(folder), dtype="float32", device="cpu")).dtype == torch.float32


def test_the_converted_file_is_the_one_that_the_library_would_write(tmp_path: Path):
    from safetensors.torch import save_file

    state = {"b.weight": torch.randn(3, 5), "a": torch.randn(7).bfloat16(), "c": torch.randn(2, 2).half()}
    save_file(state, tmp_path / "library", metadata={"format": "pt"})
    with TensorFile(tmp_path / "ours", {n: TensorPlan(tuple(t.shape), t.dtype) for n, t in state.items()}) as file:
        for name, tensor in reversed(state.items()):
            file.write(name, tensor)
    result = load_file(tmp_path / "ours")
    assert all(torch.equal(result[name], tensor) for name, tensor in state.items())
    assert (tmp_path / "ours").stat().st_size == (tmp_path / "library").stat().st_size


def test_a_float32_file_has_the_very_bytes_of_the_library(tmp_path: Path):
    from safetensors.torch import save_file

    state = {"z.weight": torch.randn(3, 5), "a.bias": torch.randn(7)}
    save_file(state, tmp_path / "library", metadata={"format": "pt"})
    with TensorFile(tmp_path / "ours", {n: TensorPlan(tuple(t.shape), t.dtype) for n, t in state.items()}) as file:
        for name, tensor in state.items():
            file.write(name, tensor)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()


def test_a_tensor_that_never_comes_is_an_error(tmp_path: Path):
    plans = {name: TensorPlan((2,), torch.float32) for name in "ab"}
    with pytest.raises(ValueError, match="not written, such as b"), TensorFile(tmp_path / "f", plans) as file:
        file.write("a", torch.ones(2))


def refused(path: Path, reason: str) -> None:
    with pytest.raises(DraftbenchError, match=path.name) as caught:
        gguf_as_folder(path)
    assert reason in str(caught.value)
    models = Path(os.environ["DRAFTBENCH_CACHE"]) / "models"
    assert not models.exists() or [p for p in models.iterdir() if p.is_dir()] == []


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("blk.2.", "counts 4 layers and holds tensors of 3; layer 2 is missing"),
        ("blk.3.", "layer 3 is missing"),
        ("blk.1.attn_q", "lacks 1 tensors of the model, such as model.layers.1.self_attn.q_proj.weight"),
        ("output_norm", "model.norm.weight"),
        ("token_embd", "model.embed_tokens.weight"),
    ],
)
def test_a_file_that_lacks_tensors_is_refused_and_nothing_is_kept(tmp_path: Path, lost: str, reason: str):
    path = write_gguf(tmp_path / "a.gguf", tiny(), byte_tokenizer(), keep=lambda name: not name.startswith(lost))
    refused(path, reason)


def test_a_tensor_that_has_no_place_is_refused(tmp_path: Path):
    path = write_gguf(tmp_path / "a.gguf", tiny(), byte_tokenizer(), more=[("blk.0.attn_q.scale", torch.ones(4))])
    refused(path, "blk.0.attn_q.scale")


def test_settings_that_contradict_the_weights_are_refused_before_memory_is_taken(tmp_path: Path):
    model = tiny()
    model.config.hidden_size = 1 << 24
    refused(write_gguf(tmp_path / "a.gguf", model, byte_tokenizer()), "its settings say [259, 16777216]")


def test_scaled_positions_that_would_be_dropped_are_refused(tmp_path: Path):
    path = write_gguf(tmp_path / "a.gguf", tiny(), byte_tokenizer(), settings={"llama.rope.scaling.type": "yarn"})
    refused(path, "llama.rope.scaling.type is yarn")


def test_llama_3_positions_are_kept(tmp_path: Path):
    rule = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    }
    model = tiny(rope_parameters=rule)
    table = ("rope_freqs.weight", _llama3_stretch(rule, 8).float())
    result = model_of(write_gguf(tmp_path / "a.gguf", model, byte_tokenizer(), more=[table]))
    long = torch.arange(400).remainder(259).unsqueeze(0)
    assert float(table[1].max()) == 8
    assert torch.equal(result(input_ids=long).logits, model(input_ids=long).logits)
    odd = ("rope_freqs.weight", torch.tensor([1.0, 2.0, 3.0, 4.0]))
    refused_path = write_gguf(tmp_path / "b.gguf", model, byte_tokenizer(), more=[odd])
    with pytest.raises(DraftbenchError, match="no rule"):
        gguf_as_folder(refused_path)


def split(folder: Path, model: Any) -> list[Path]:
    """The model as two parts, each with the header, the second half of the layers in the second."""
    late = ("blk.2.", "blk.3.", "output_norm")
    keeps = (lambda name: not name.startswith(late), lambda name: name.startswith(late))
    paths = [folder / f"tiny-0000{i}-of-00002.gguf" for i in (1, 2)]
    for path, keep in zip(paths, keeps, strict=True):
        write_gguf(path, model, byte_tokenizer(), keep=keep)
    return paths


def test_all_parts_of_a_split_file_are_one_model_whichever_is_named(tmp_path: Path):
    model = tiny()
    paths = split(tmp_path, model)
    for path in paths:
        assert torch.equal(model_of(path)(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert gguf_as_folder(paths[0]) == gguf_as_folder(paths[1])


@pytest.mark.parametrize("kept", [0, 1])
def test_one_part_of_a_split_file_is_refused(tmp_path: Path, kept: int):
    paths = split(tmp_path, tiny())
    paths[1 - kept].unlink()
    refused(paths[kept], f"{paths[1 - kept].name} is not beside it")


def test_a_part_under_another_name_is_refused_by_its_layers(tmp_path: Path):
    path = split(tmp_path, tiny())[0].rename(tmp_path / "renamed.gguf")
    refused(path, "layer 2 is missing")


def test_a_converted_file_is_not_converted_again_unless_it_was_damaged(tmp_path: Path):
    path = write_gguf(tmp_path / "a.gguf", tiny(), byte_tokenizer())
    folder = gguf_as_folder(path)
    weights = folder / "model.safetensors"
    before, modified_ns = sha256_file(weights), weights.stat().st_mtime_ns
    assert gguf_as_folder(path) == folder
    assert weights.stat().st_mtime_ns == modified_ns
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    os.utime(weights, ns=(modified_ns, modified_ns))  # the time that it had does not hide the damage
    assert gguf_as_folder(path) == folder
    assert sha256_file(weights) == before
    (folder / "config.json").unlink()
    assert (gguf_as_folder(path) / "config.json").is_file()


def test_a_conversion_of_an_earlier_version_is_not_used(tmp_path: Path):
    path = write_gguf(tmp_path / "a.gguf", tiny(), byte_tokenizer())
    old = Path(os.environ["DRAFTBENCH_CACHE"]) / "models" / f"gguf-{sha256_file(path)[:16]}"
    old.mkdir(parents=True)
    (old / "config.json").write_text("{}")
    assert gguf_as_folder(path) != old


def test_the_converted_files_have_the_mode_that_the_umask_gives(tmp_path: Path):
    before = os.umask(0o027)
    try:
        folder = gguf_as_folder(write_gguf(tmp_path / "a.gguf", tiny(), byte_tokenizer()))
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o640}


def test_files_beside_a_gguf_file_do_not_get_into_the_model(tmp_path: Path):
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "not the one in the file"}')
    (tmp_path / "chat_template.jinja").write_text("nor this")
    folder = gguf_as_folder(write_gguf(tmp_path / "a.gguf", tiny(), byte_tokenizer()))
    assert (folder / "chat_template.jinja").read_text() == byte_tokenizer().chat_template


def header_bytes(path: Path) -> bytes:
    start = min(tensor.start for tensor in read_header(path).tensors)
    return path.read_bytes()[:start]


def test_a_header_is_read_as_it_was_written(tmp_path: Path):
    model = tiny()
    header = read_header(write_gguf(tmp_path / "a.gguf", model, byte_tokenizer()))
    assert header.architecture == "llama"
    assert header.values["llama.block_count"] == 4
    assert header.lengths["tokenizer.ggml.tokens"] == 259
    assert {t.name: t.shape for t in header.tensors} == {n: tuple(t.shape) for n, t in gguf_tensors(model).items()}


@pytest.mark.parametrize("where", ["tensors", "keys", "key length"])
def test_a_count_beyond_the_file_is_refused(tmp_path: Path, where: str):
    path = write_gguf(tmp_path / "a.gguf", tiny(), byte_tokenizer())
    raw = bytearray(path.read_bytes())
    offset = {"tensors": 8, "keys": 16, "key length": 24}[where]
    raw[offset : offset + 8] = struct.pack("<Q", 2**62)
    path.write_bytes(raw)
    refused(path, "claims")


def test_a_file_cut_anywhere_in_its_tensors_is_refused(tmp_path: Path):
    path = write_gguf(tmp_path / "a.gguf", tiny(), byte_tokenizer())
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, len(header_bytes(path)) + 1):
        path.write_bytes(whole[:size])
        refused(path, "may have been cut")
