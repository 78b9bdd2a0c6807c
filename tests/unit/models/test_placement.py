"""Models that do not lie whole on one device: where their layers go, and that nothing but the place changes."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from engine.capture.batch_size import row_bytes
from engine.config.schema import DraftSpec, ModelSpec
from engine.decode.slot_fit import slot_fit
from engine.decode.slot_runner import SlotRunner
from engine.errors import DraftbenchError
from engine.models.draft import initialise_draft, load_draft, own_state, save_draft
from engine.models.load import LoadedModel, load_model
from engine.models.placement import Room, Sizes, computing_shares, fill, is_spread
from tests.conftest import tiny_llama

IDS = torch.tensor([[0, 5, 7, 90, 33]])
ROOM_FOR_TWO_LAYERS = 0.0001  # GB: the ends take 33 kB, a layer 37 kB


def spec(folder: Path, **more: object) -> ModelSpec:
    return ModelSpec.model_validate({"model": str(folder), "dtype": "float32", "device": "cpu", **more})


@pytest.fixture(scope="module")
def whole(tiny_target_folder: Path) -> LoadedModel:
    return load_model(spec(tiny_target_folder))


@pytest.fixture(scope="module")
def split(tiny_target_folder: Path) -> LoadedModel:
    """The same target with a part of its layers left on disk."""
    return load_model(spec(tiny_target_folder, device_map="auto", max_memory_gb={"cpu": ROOM_FOR_TWO_LAYERS}))


def rooms(*sizes: int, cpu: int = 0) -> list[Room]:
    return [*(Room(f"cuda:{i}", size) for i, size in enumerate(sizes)), Room("cpu", cpu)]


@pytest.mark.parametrize(
    ("free", "cpu", "layers"),
    [
        ((100, 100), 0, "0011"),  # evenly, the first card with the ends
        ((100, 100, 100, 100), 0, "0112"),  # none more than its part and one layer
        ((100,), 0, "0000"),
        ((25, 100), 0, "0111"),
        ((25, 15), 100, "01cc"),
        ((25, 15), 10, "01cd"),
        ((15,), 0, "dddd"),
    ],
)
def test_layers_fill_cards_then_main_memory_then_the_disk(free: tuple[int, ...], cpu: int, layers: str):
    placed = fill(Sizes((10, 10, 10, 10), ends=12), rooms(*free, cpu=cpu))
    assert "".join(device[5:] if device.startswith("cuda") else device[0] for device in placed) == layers


def test_no_device_gets_more_than_its_room():
    sizes = Sizes((7, 30, 7, 7, 19, 7), ends=11)
    for free in itertools.product((11, 20, 45, 90), repeat=3):
        room = rooms(*free, cpu=20)
        placed = fill(sizes, room)
        for one in room:
            held = sum(size for size, device in zip(sizes.layers, placed, strict=True) if device == one.device)
            assert held + (sizes.ends if one is room[0] else 0) <= one.bytes


def test_ends_that_do_not_fit_are_refused_with_their_size():
    with pytest.raises(DraftbenchError, match=r"1\.00 GB.*2\.00 GB"):
        fill(Sizes((1,), ends=2 * 10**9), [Room("cuda:0", 10**9)])


def test_a_target_with_layers_on_disk_computes_the_same_bits(whole: LoadedModel, split: LoadedModel):
    assert is_spread(split.model)
    assert not is_spread(whole.model)
    assert split.placed == "4 layers: 1 on cpu, 3 on disk (its own files)"
    assert whole.placed == ""
    assert torch.equal(split.model(input_ids=IDS).logits, whole.model(input_ids=IDS).logits)
    assert (split.fingerprint, split.embeddings_hash) == (whole.fingerprint, whole.embeddings_hash)
    assert slot_fit(split.model).side_by_side


def test_ragged_rows_of_a_split_target_share_a_cache(whole: LoadedModel, split: LoadedModel):
    texts = [[5, 9, 2], [7, 7, 7, 7, 1, 3], [200]]
    results = []
    for target in (whole, split):
        runner = SlotRunner(target.model)
        first = runner.feed(texts, last=1)
        runner.take_back([1, 0, 0])
        runner.keep_rows([1, 0])
        results.append(torch.cat([first[:2], runner.feed_ids(torch.tensor([[3], [4]]))]))
    assert torch.equal(*results)


def test_a_draft_is_made_of_layers_that_are_on_disk(whole: LoadedModel, split: LoadedModel, tmp_path: Path):
    made = [initialise_draft(target, DraftSpec(layers=[1, 3]), seed=0) for target in (whole, split)]
    states = [own_state(draft.model, draft.info) for draft in made]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    save_draft(tmp_path, made[1])
    again = load_draft(tmp_path, split).model  # its ends are the target's tensors, without the target's hooks
    assert again.get_input_embeddings().weight is split.model.get_input_embeddings().weight
    assert not any(hasattr(module, "_hf_hook") for module in again.modules())
    assert torch.equal(again(input_ids=IDS).logits, load_draft(tmp_path, whole).model(input_ids=IDS).logits)


def test_an_adapter_is_not_merged_into_layers_that_are_elsewhere(split: LoadedModel, tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    with pytest.raises(DraftbenchError, match="spread over devices"):
        load_model(split.spec.model_copy(update={"adapter": str(tmp_path / "lora")}))


@pytest.mark.parametrize(
    ("memory", "message"),
    [({"cpu": 0.00001}, "embeddings and output head alone"), ({"7": 1.0}, "names cuda:7, which is not here")],
)
def test_memory_that_cannot_be_used_is_refused(tiny_target_folder: Path, memory: dict[str, float], message: str):
    with pytest.raises(DraftbenchError, match=message):
        load_model(spec(tiny_target_folder, device_map="auto", max_memory_gb=memory))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_memory_gb": {"cpu": 1}},
        {"device_map": "auto", "max_memory_gb": {"gpu": 1}},
        {"device_map": "auto", "tensor_parallel": 2},
        {"device_map": "auto", "quantize": "int8"},
        {"device_map": "balanced"},
    ],
)
def test_settings_that_contradict_are_refused(tiny_target_folder: Path, settings: dict[str, object]):
    with pytest.raises(ValueError, match=r"device_map|max_memory_gb|tensor_parallel"):
        spec(tiny_target_folder, **settings)


def test_keys_and_values_are_counted_where_layers_compute(split: LoadedModel, whole: LoadedModel):
    assert computing_shares(split.model) == computing_shares(whole.model) == {torch.device("cpu"): 1.0}
    half = row_bytes(whole.model, 1000, 0.5, with_logits=False)
    assert 2 * half < row_bytes(whole.model, 1000)
    whole.model.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "model.layers.2": 1}
    try:
        assert list(computing_shares(whole.model).values()) == pytest.approx([0, 1 / 3, 2 / 3])
    finally:
        del whole.model.hf_device_map
