"""The checks before a start and the run itself say the same of targets and drafts, the first without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.models.embeddings import touches_embeddings
from engine.paths import home
from engine.planning import fitness
from engine.planning.checks import Check, checks
from engine.planning.fitness import check_draft, check_target
from engine.planning.outlines import target_shapes
from engine.runs.drafts import untrained_draft
from engine.runs.recipes import read_recipe
from engine.runs.session import load_target
from tests.conftest import byte_tokenizer, tiny_llama
from tests.tiny_families import MIXED, SEEING, random_model, small_config

PLAIN = {
    name: (name, {})
    for name in (
        "llama",
        "gpt2",
        "gpt_neox",
        "opt",
        "bloom",
        "falcon",
        "phi",
        "mamba",
        "rwkv",
        "jamba",
        "bert",
        "bert-generation",
        "cohere",
        "granite",
        "gemma2",
        "cpmant",  # sees later tokens, which its shapes do not show
        "trocr",  # a decoder in a shell that hands everything on
        "bart",  # one whose settings count the layers of its encoder
    )
}
TRIED = {
    **PLAIN,
    **SEEING,
    **{
        name: MIXED[name]
        for name in (
            "DeepSeek-V3, dense first",
            "Gemma-3n",
            "Gemma-4, no embeddings by layer",
            "GPT-OSS, sliding and full",
            "GPT-2, scaled by place",
            "SmolLM-3, positions left out",
        )
    },
}


def written(folder: Path, kind: str, settings: dict[str, Any]) -> Path:
    """The tiny model on disk; of what is no causal model its configuration alone."""
    config = small_config(kind, **settings)
    try:
        random_model(config).save_pretrained(folder)
    except ValueError:
        config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def made(recipe: Path, *settings: str) -> Recipe:
    return read_recipe(home(), str(recipe), settings, skip_bad=False)


def refusal(work: Any) -> DraftbenchError | None:
    try:
        work()
    except DraftbenchError as error:
        return error
    return None


def before(asked: Recipe) -> dict[str, Check]:
    return {check.name: check for check in checks(home(), asked)}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_check_and_run_agree_about_a_target(recipe: Path, tmp_path: Path, name: str):
    asked = made(recipe, f"target.model={written(tmp_path / 'model', *TRIED[name])}", "draft.layers=[0, 1]")
    refused = refusal(lambda: load_target(asked))
    found = before(asked)["target"]
    assert found.ok == (refused is None), (found, refused)


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["[0, 1]", "[0, 5]", "3", "6", "7", "[9]"])
@pytest.mark.parametrize("name", ["DeepSeek-V3, dense first", "GPT-2, scaled by place", "SmolLM-3, positions left out"])
def test_check_and_run_agree_about_the_layers_of_a_draft(recipe: Path, tmp_path: Path, name: str, layers: str):
    asked = made(recipe, f"target.model={written(tmp_path / 'model', *TRIED[name])}", f"draft.layers={layers}")
    refused = refusal(lambda: untrained_draft(home(), asked, load_target(asked)))
    found = before(asked)["draft"]
    assert found.ok == (refused is None)
    if refused is not None:
        assert refused.what in found.message
        assert found.fix == refused.fix


def narrow() -> Any:
    return tiny_llama(layers=1, hidden_size=16)


def windowed() -> Any:
    return random_model(small_config("mistral", tie_word_embeddings=True))


def with_state() -> Any:
    kind, settings = MIXED["LFM-2-MoE, dense first"]
    return random_model(small_config(kind, **settings))


def untied() -> Any:
    return tiny_llama(layers=1, tie_word_embeddings=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draft", "settings", "reason"),
    [
        (narrow, (), "can be shared only when they have the same shape"),
        (narrow, ("draft.share_embeddings=false",), None),
        (untied, (), "set draft.share_embeddings: false"),
        (untied, ("draft.share_embeddings=false",), None),
        (windowed, ("draft.share_embeddings=false",), None),
        (with_state, ("draft.share_embeddings=false",), "keeps its past in layers of conv"),
        (narrow, ("draft.share_embeddings=false", "draft.vocabulary=300"), "the target has 258 ids"),
    ],
)
def test_check_and_run_agree_about_a_draft_of_another_model(
    recipe: Path, tmp_path: Path, draft: Any, settings: tuple[str, ...], reason: str | None
):
    draft().save_pretrained(tmp_path / "draft")
    byte_tokenizer().save_pretrained(tmp_path / "draft")
    asked = made(recipe, "draft.init=checkpoint", f"draft.checkpoint={tmp_path / 'draft'}", *settings)

    def start() -> None:
        target = load_target(asked)
        whole = untrained_draft(home(), asked, target)
        if asked.draft.vocabulary is not None:
            fitness.check_trim(whole, target, asked.draft.vocabulary)

    refused, found = refusal(start), before(asked)["draft"]
    assert found.ok == (refused is None) == (reason is None), (found, refused)
    if reason is not None:
        assert reason in found.message + found.fix
        assert reason in str(refused)


@pytest.mark.slow
def test_a_draft_of_an_earlier_run_is_looked_at_by_its_card(finished_home: Path, recipe: Path):
    asked = made(recipe, "draft.init=checkpoint", "draft.checkpoint=latest")
    assert before(asked)["draft"].message.startswith("starts from tiny-")
    card = next(finished_home.glob("runs/*/draft/best/draft.json"))
    card.write_text(json.dumps({**json.loads(card.read_text()), "config": {"model_type": "no such kind"}}))
    found = before(asked)["draft"]
    assert not found.ok
    assert "cannot be built" in found.message


@pytest.fixture
def own_code(tmp_path: Path, tiny_target_folder: Path) -> Path:
    """A folder whose model is code that ships with it, of a kind that Transformers does not have."""
    folder = tmp_path / "own-code"
    folder.mkdir()
    for file in tiny_target_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "config.json").read_text())
    kinds = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "own", "auto_map": kinds}))
    (folder / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    return folder


def test_code_of_a_model_is_refused_or_said_to_be_looked_at_later(recipe: Path, own_code: Path):
    refused = before(made(recipe, f"target.model={own_code}"))
    for name in ("target", "draft"):
        assert not refused[name].ok
        assert "needs Python code that ships with it" in refused[name].message
        assert "target.trust_remote_code" in refused[name].fix
    trusted = before(made(recipe, f"target.model={own_code}", "target.trust_remote_code=true"))
    for name in ("target", "draft"):
        assert trusted[name].state == "warning"
        assert "not run here" in trusted[name].message


def test_a_draft_of_a_model_that_is_its_own_code_is_saved_and_loaded(recipe: Path, own_code: Path, tmp_path: Path):
    from engine.models.draft import load_draft, save_draft

    asked = made(recipe, f"target.model={own_code}", "target.trust_remote_code=true")
    target = load_target(asked)
    draft = untrained_draft(home(), asked, target)
    save_draft(tmp_path / "draft", draft)
    again = load_draft(tmp_path / "draft", target)
    assert type(again.model).__name__ == "OwnForCausalLM"
    ids = torch.tensor([[3, 5, 9]])
    assert torch.equal(again.model(input_ids=ids).logits, draft.model(input_ids=ids).logits)


def test_a_large_target_is_checked_in_no_memory(recipe: Path, tmp_path: Path):
    """DeepSeek-V3's own size, 671 billion parameters: shapes alone, though its head is computed."""
    from transformers import DeepseekV3Config

    DeepseekV3Config().save_pretrained(tmp_path / "large")
    asked = made(recipe, f"target.model={tmp_path / 'large'}", "draft.layers=[0, 30, 60]")
    shapes = target_shapes(asked.target)
    assert sum(p.numel() for p in shapes.parameters()) > 6e11
    assert "61 layers and 129,280 ids" in check_target(asked, shapes)
    assert check_draft(home(), asked, shapes) == "3 of the target's 61 layers: 0, 30, 60"


@pytest.mark.parametrize(
    ("settings", "touched"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, False),
        ({"target_modules": "all-linear"}, False),
        ({"target_modules": ["model.embed_tokens"]}, True),
        ({"target_modules": r".*\.(q_proj|embed_tokens)"}, True),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, True),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}, True),
        ({"target_modules": ["q_proj"], "trainable_token_indices": None}, False),
    ],
)
def test_an_adapter_that_touches_the_shared_embeddings_is_known(
    tmp_path: Path, settings: dict[str, Any], touched: bool
):
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert touches_embeddings(tmp_path) == touched
