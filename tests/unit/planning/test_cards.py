"""What doctor, checks and estimate say of several cards, and of a target that lies on several devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.models.placement import CARD_SHARE
from engine.paths import home
from engine.planning.cards import Card, cards_in_words, fit, holds
from engine.planning.checks import checks
from engine.planning.doctor import health
from engine.planning.estimate import estimate
from engine.runs.recipes import read_recipe
from tests.conftest import tiny_llama
from tests.tiny_quantised import in_float8

GB = 10**9
CARDS = [Card(0, "H100", 80 * GB, 85 * GB), Card(1, "H100", 40 * GB, 85 * GB)]


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (34 * GB, "fits one card (cuda:0, cuda:1)"),
        (60 * GB, "fits one card (cuda:0)"),
        (68 * GB, "fits one card (cuda:0)"),
        (69 * GB, "fits no single card, but all 2 together: set target.device_map: auto"),
        (102 * GB, "fits no single card, but all 2 together"),
        (103 * GB, "which all cards together do not hold (102.0 GB)"),
    ],
)
def test_a_target_fits_one_card_all_or_none(weights: int, said: str):
    assert said in fit(weights, CARDS)
    assert CARD_SHARE == 0.85  # the limits above


def test_cards_are_named_with_their_memory_and_the_variable_that_chose_them():
    words = cards_in_words(CARDS, "3,1")
    assert words.startswith("2 cards (CUDA_VISIBLE_DEVICES=3,1); 0: H100, 80.0 GB of 85.0 GB free; 1: H100")
    assert "CUDA" not in cards_in_words(CARDS[:1], None)
    assert "34.0 billion parameters in bfloat16, all together 51.0" in holds(CARDS)
    assert "together" not in holds(CARDS[:1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without cards")
def test_doctor_speaks_of_cards_only_where_some_were_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "cards" not in {check.name for check in health(home())}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    (found,) = [check for check in health(home()) if check.name == "cards"]
    assert found.condition == "none is visible (CUDA_VISIBLE_DEVICES=0,1)"


@pytest.mark.slow
def test_the_check_says_where_layers_would_go(recipe: Path):
    def memory(*settings: str) -> tuple[str, str]:
        made = read_recipe(home(), str(recipe), settings, skip_bad=False)
        (found,) = [check for check in checks(home(), made) if check.name == "memory"]
        return found.state, found.message

    split = memory("target.device_map=auto", "target.max_memory_gb={cpu: 0.0001}")
    assert split[0] == "warning"
    assert "4 layers: 1 on cpu, 3 on disk (its own files)" in split[1]
    assert "3 layers are copied to cpu for every token" in split[1]
    whole = memory("target.device_map=auto", "target.max_memory_gb={cpu: 1}")
    assert whole[0] == "ok"
    assert "4 layers: 4 on cpu" in whole[1]
    assert memory()[0] == "ok"


@pytest.mark.slow
def test_the_check_says_what_cannot_be_split(recipe: Path, tiny_target_folder: Path):
    def device(*settings: str) -> tuple[str, str]:
        made = read_recipe(home(), str(recipe), settings, skip_bad=False)
        (found,) = [check for check in checks(home(), made) if check.name == "device"]
        return found.state, found.message

    assert device("target.tensor_parallel=2")[0] == "ok"
    refused = device("target.tensor_parallel=4")
    assert refused[0] == "failed"
    assert "2 key value heads" in refused[1]
    assert device("draft.device=cuda:7")[0] == "failed"


def test_one_process_of_a_split_target_holds_its_part_and_both_ends(recipe: Path):
    def target_bytes(*settings: str) -> int:
        return estimate(home(), read_recipe(home(), str(recipe), settings, skip_bad=False)).memory["target"]

    plain = tiny_llama()
    ends = plain.get_input_embeddings().weight.nbytes + plain.model.norm.weight.nbytes
    layers = sum(p.nbytes for p in plain.parameters()) - ends
    assert target_bytes() == ends + layers
    assert target_bytes("target.tensor_parallel=2") == ends + layers // 2


def test_a_quantised_target_is_counted_as_it_is_held(recipe: Path, tiny_target_folder: Path, tmp_path: Path):
    in_float8(tiny_target_folder, tmp_path / "float8")

    def target_bytes(*settings: str) -> int:
        return estimate(home(), read_recipe(home(), str(recipe), settings, skip_bad=False)).memory["target"]

    # on a CPU float8 is unpacked, so it takes what the plain model takes
    assert target_bytes(f"target.model={tmp_path / 'float8'}") == target_bytes()
