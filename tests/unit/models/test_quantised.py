"""Targets whose weights are quantised in their folder: float8, which Transformers reads without another package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config.schema import DraftSpec, ModelSpec
from engine.decode.slot_fit import slot_fit
from engine.models.draft import initialise_draft
from engine.models.load import load_model, model_fingerprint
from engine.models.locate import fingerprint
from engine.models.placement import stored_bytes
from engine.models.quantised import is_exact, is_packed_layer, is_unpacked, plain_weight
from tests.conftest import tiny_llama
from tests.tiny_quantised import in_float8

IDS = torch.tensor([[0, 5, 7, 90, 33]])


@pytest.fixture(scope="module")
def float8(tiny_target_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder in float8 and the numbers that it stores."""
    folder = tmp_path_factory.mktemp("quantised") / "float8"
    return folder, in_float8(tiny_target_folder, folder)


def spec(folder: Path, dtype: str = "float32", **more: object) -> ModelSpec:
    return ModelSpec.model_validate({"model": str(folder), "dtype": dtype, "device": "cpu", **more})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float8_is_read_as_the_numbers_that_are_stored(float8: tuple[Path, dict[str, torch.Tensor]], dtype: str):
    folder, stored = float8
    plain = tiny_llama()
    plain.load_state_dict(stored, strict=False)
    loaded = load_model(spec(folder, dtype))
    assert loaded.dtype_name == dtype
    assert {p.dtype for p in loaded.model.parameters()} == {loaded.dtype}
    expected, actual = plain(input_ids=IDS).logits, loaded.model(input_ids=IDS).logits.float()
    near = 1e-5 if dtype == "float32" else 0.05
    assert float((actual - expected).norm() / expected.norm()) < near
    assert float((tiny_llama()(input_ids=IDS).logits - expected).norm() / expected.norm()) > 0.02  # another target


def test_the_fingerprint_is_of_the_packed_files_and_of_how_they_are_read(
    float8: tuple[Path, dict[str, torch.Tensor]], tiny_target_folder: Path
):
    folder, _ = float8
    loaded = load_model(spec(folder))
    prints = {loaded.fingerprint, fingerprint(folder), fingerprint(tiny_target_folder)}
    assert len(prints) == 3  # a GPU that computes in float8 rounds what layers read, so it is another target
    assert model_fingerprint(spec(folder)) == loaded.fingerprint
    assert is_unpacked("fp8", torch.device("cpu"))
    assert not is_unpacked("torchao", torch.device("cpu"))


def test_a_float8_target_decodes_spreads_and_gives_its_layers_to_a_draft(
    float8: tuple[Path, dict[str, torch.Tensor]],
):
    folder, stored = float8
    loaded = load_model(spec(folder))
    assert slot_fit(loaded.model).side_by_side
    draft = initialise_draft(loaded, DraftSpec(layers=[1, 3]), seed=0)
    assert torch.allclose(
        draft.model.model.layers[1].mlp.up_proj.weight, stored["model.layers.3.mlp.up_proj.weight"], rtol=1e-5
    )


def test_bytes_are_those_of_the_files(float8: tuple[Path, dict[str, torch.Tensor]], tiny_target_folder: Path):
    parameters = sum(p.numel() for p in tiny_llama().parameters())
    projections = sum(p.numel() for n, p in tiny_llama().named_parameters() if "_proj" in n)
    assert stored_bytes(tiny_target_folder) == 4 * parameters
    assert stored_bytes(float8[0]) == 4 * (parameters - projections) + projections + 4 * 7 * 4


class Rounding(torch.nn.Linear):
    """A layer with weights of its own kind, which only its forward makes numbers of, as quantised ones are."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(hidden, (self.weight * 4).round() / 4, self.bias)


@pytest.mark.parametrize("bias", [True, False])
def test_the_plain_weight_of_a_layer_is_what_it_multiplies_by(bias: bool):
    layer = Rounding(6, 5, bias=bias)
    assert is_packed_layer(layer)
    assert not is_packed_layer(torch.nn.Linear(6, 5))
    assert not is_packed_layer(torch.nn.LayerNorm(5))
    assert torch.allclose(plain_weight(layer, torch.float32), (layer.weight * 4).round() / 4, atol=1e-6)


def test_only_plain_float32_counts_as_exact():
    assert is_exact(tiny_llama())
    assert not is_exact(tiny_llama().to(torch.bfloat16))
