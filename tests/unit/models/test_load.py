"""From a name to a loaded model: folders, adapters, GGUF files and the hub, and what is refused on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError
from engine.models.load import load_model, load_tokenizer, model_fingerprint, resolve_device, resolve_dtype
from engine.models.locate import fingerprint, locate_model
from tests.conftest import byte_tokenizer, tiny_llama

IDS = torch.tensor([[0, 5, 7, 90, 33]])


def spec(folder: Path, **more: Any) -> ModelSpec:
    return ModelSpec(model=str(folder), dtype="float32", device="cpu", **more)


@pytest.fixture
def folder(tiny_target_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_target_folder, tmp_path / "model"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A saved LoRA of the tiny target, and the logits of the target with it."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        adapted = get_peft_model(tiny_llama(), config).eval()
    path = tmp_path_factory.mktemp("adapters") / "lora"
    adapted.save_pretrained(path)
    with torch.no_grad():
        return path, adapted(input_ids=IDS).logits


def test_a_folder_is_loaded_frozen_and_in_the_precision_asked_for(tiny_target_folder: Path):
    loaded = load_model(spec(tiny_target_folder))
    assert torch.equal(loaded.model(input_ids=IDS).logits, tiny_llama()(input_ids=IDS).logits)
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert (loaded.dtype_name, loaded.vocab_rows, loaded.context_tokens) == ("float32", 258, 512)
    assert load_model(spec(tiny_target_folder), dtype="bfloat16").dtype == torch.bfloat16


def test_every_id_that_ends_an_answer_is_a_stop_id(folder: Path):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert load_model(spec(folder)).stop_ids == {7, 9, 1}


def test_the_tokenizer_loads_without_the_weights(folder: Path):
    (folder / "model.safetensors").unlink()
    assert len(load_tokenizer(spec(folder))) == 258


def drop_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("model.layers.1.self_attn.q_proj.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder: Path) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[: len(raw) // 2])


def pickle_instead(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        drop_tensor,
        truncate,
        pickle_instead,
        no_tokenizer,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text('{"model_type": "no_such_family"}'),
    ],
    ids=["tensor missing", "cut", "pickle", "no tokenizer", "no weights", "config cut", "unknown family"],
)
def test_a_folder_that_holds_no_whole_model_is_refused(folder: Path, damage: Any):
    damage(folder)
    with pytest.raises(DraftbenchError, match="could not load") as caught:
        load_model(spec(folder))
    assert str(folder) in caught.value.what


def test_code_that_ships_with_a_model_does_not_run_unasked(folder: Path, tmp_path: Path):
    witness = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(witness)!r}, 'w').close()\nclass E: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.E", "AutoModelForCausalLM": "evil.E"}
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DraftbenchError, match="could not load"):
        load_model(spec(folder))
    assert not witness.exists()


def test_an_adapter_is_merged_into_its_base(tiny_target_folder: Path, adapter: tuple[Path, torch.Tensor]):
    path, expected = adapter
    loaded = load_model(spec(tiny_target_folder, adapter=str(path)))
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(loaded.model(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, tiny_llama()(input_ids=IDS).logits, atol=0.1)
    assert loaded.fingerprint != load_model(spec(tiny_target_folder)).fingerprint


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path, adapter: tuple[Path, torch.Tensor]):
    wide = tmp_path / "wide"
    tiny_llama(hidden_size=64).save_pretrained(wide)
    byte_tokenizer().save_pretrained(wide)
    with pytest.raises(DraftbenchError, match="with adapter"):
        load_model(spec(wide, adapter=str(adapter[0])))


def test_a_folder_without_adapter_is_refused_as_one(tiny_target_folder: Path):
    with pytest.raises(DraftbenchError, match="not a PEFT adapter"):
        load_model(spec(tiny_target_folder, adapter=str(tiny_target_folder)))


def test_a_pickled_adapter_is_refused(tmp_path: Path, tiny_target_folder: Path, adapter: tuple[Path, torch.Tensor]):
    pickled = Path(shutil.copytree(adapter[0], tmp_path / "lora"))
    torch.save(load_file(pickled / "adapter_model.safetensors"), pickled / "adapter_model.bin")
    (pickled / "adapter_model.safetensors").unlink()
    with pytest.raises(DraftbenchError, match="safetensors"):
        load_model(spec(tiny_target_folder, adapter=str(pickled)))


def test_a_fingerprint_follows_every_byte_of_weights_settings_and_tokenizer(folder: Path):
    before = fingerprint(folder)
    (folder / "README.md").write_text("notes do not count")
    assert fingerprint(folder) == before == model_fingerprint(spec(folder))
    seen = {before}
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        seen.add(fingerprint(folder))
        (folder / name).write_bytes(raw)
    assert len(seen) == 5
    assert fingerprint(folder) == before
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert fingerprint(folder) != before


def test_a_remembered_hash_is_forgotten_when_the_file_changes(tmp_path: Path):
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(10_000_000))
    first = fingerprint(weights.parent)
    assert fingerprint(weights.parent) == first
    weights.write_bytes(bytes(9_999_999) + b"x")
    assert fingerprint(weights.parent) != first


@pytest.mark.parametrize("name", ["no/such/folder", "some-org/some-model"])
def test_a_path_that_does_not_exist_is_refused(name: str):
    with pytest.raises(DraftbenchError, match=f"no such file or folder: {name}"):
        locate_model(ModelSpec(model=name))


def test_a_folder_without_config_and_a_file_of_another_kind_are_no_models(tmp_path: Path):
    (tmp_path / "weights.bin").touch()
    for path in (tmp_path, tmp_path / "weights.bin"):
        with pytest.raises(DraftbenchError, match="is not a model") as caught:
            locate_model(ModelSpec(model=str(path)))
        assert "hub:" in caught.value.fix


def test_a_hub_model_without_network_names_model_and_way_out(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DraftbenchError, match="could not get hub:no-such-org-x/no-such-model at revision v1") as caught:
        locate_model(ModelSpec(model="hub:no-such-org-x/no-such-model", revision="v1"))
    assert "local folder" in caught.value.fix


def test_pickles_are_never_fetched_and_code_only_when_trusted(monkeypatch, tmp_path: Path):
    import huggingface_hub

    asked: list[list[str]] = []

    def fake(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    locate_model(ModelSpec(model="hub:a/b"))
    locate_model(ModelSpec(model="hub:a/b", trust_remote_code=True))
    plain, trusted = asked
    assert "*.safetensors" in plain
    assert not {"*.py", "*.bin", "*.pt", "*"} & set(plain)
    assert set(trusted) - set(plain) == {"*.py"}


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\xff" * 200, b"not a model at all" * 50])
def test_a_gguf_file_that_is_garbage_is_refused_and_leaves_nothing(tmp_path: Path, content: bytes):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(DraftbenchError, match=r"bad\.gguf could not be read as a GGUF model"):
        locate_model(ModelSpec(model=str(path)))
    assert [p for p in (tmp_path / "cache" / "models").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize("device", ["cuda:77", "no-such-device", "cpu0x"])
def test_a_device_that_is_not_there_is_refused(device: str):
    with pytest.raises(DraftbenchError, match=device):
        resolve_device(device)


def test_bfloat16_is_chosen_only_where_it_is_native(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert resolve_dtype("auto", cpu) == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert resolve_dtype("auto", cpu) == torch.bfloat16
    assert resolve_dtype("float16", cpu) == torch.float16
