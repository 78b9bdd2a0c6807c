"""The catalogue and what computes: every card has code of its name, and every piece of code a card."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from typing import get_args

import pytest

from engine import catalogue
from engine.catalogue import LOSSES, MODES, Card, Loss, check_losses, supervision_of
from engine.config.train import LossTerm, ModeSpec, TrainSpec
from engine.errors import DraftbenchError
from engine.paths import PROJECT_ROOT

CARDS: list[Card] = [
    *LOSSES.values(),
    *MODES.values(),
    *(variant for mode in MODES.values() for variant in mode.variants),
    *catalogue.SUPERVISION.values(),
    catalogue.SELECTION,
    catalogue.LORA,
    *catalogue.EXPORTERS.values(),
    *catalogue.SERVERS.values(),
]


def test_every_loss_is_a_card_and_a_function():
    from engine.distill import losses

    assert list(losses.LOSSES) == list(LOSSES)
    assert {name: function.__name__ for name, function in losses.LOSSES.items()} == {name: name for name in LOSSES}


def test_every_mode_is_a_card_and_a_file():
    from engine.distill import modes

    assert {module.name for module in pkgutil.iter_modules(modes.__path__)} == set(MODES)
    for name in MODES:
        assert callable(__import__(f"engine.distill.modes.{name}", fromlist=["source"]).source)
        assert TrainSpec(mode=name, loss=["forward_kl"]).mode == name  # type: ignore[list-item]


def test_every_format_is_a_card_and_a_file():
    from engine.export import exporter

    for name in catalogue.EXPORTERS:
        assert callable(exporter(name).write)
        assert callable(exporter(name).load)
    with pytest.raises(DraftbenchError, match="unknown export format 'hugingface'"):
        exporter("hugingface")


def test_a_server_reports_a_rate_of_the_way_it_proposes():
    from engine.measure.definitions import RATES

    assert set(catalogue.RATE_OF) == set(get_args(catalogue.Proposals))
    for server in catalogue.SERVERS.values():
        assert set(server.rates) <= set(RATES)
        assert server.reports.startswith(server.rates[0])
        assert server.weights in catalogue.EXPORTERS
    named = catalogue.servers_by_rate()
    assert set(named) == set(catalogue.RATE_OF.values())
    assert "vLLM" in named["argmax"]
    assert "vLLM with sampled proposals" in named["exact"]


def test_a_mode_with_settings_has_a_section_of_its_name():
    sections = {name for name in TrainSpec.model_fields if isinstance(getattr(TrainSpec(), name), ModeSpec)}
    assert {"online", "on_policy"} <= sections <= set(MODES)


def test_the_parameter_of_a_loss_is_a_key_of_its_term():
    for loss in LOSSES.values():
        term = LossTerm(name=loss.name)
        assert list(term.parameters) == ([loss.parameter] if loss.parameter else [])
        assert all(value == LossTerm.model_fields[key].default for key, value in term.parameters.items())


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_says_what_it_is_and_its_formula_is_latex(card: Card):
    assert card.title
    assert card.text.endswith(".")
    assert card.formula.count("{") == card.formula.count("}")
    bare = re.sub(
        r"\\(?:text|mathrm|mathbb)\{[^}]*\}|\\(?:begin|end)\{\w+\}|\[\w+\]|\\[a-zA-Z]+|\\.", " ", card.formula
    )
    assert not re.search("[A-Za-z]{2,}", bare), card.formula  # a word outside \\text would be set as a product


def test_formulas_for_a_terminal_are_plain():
    assert LOSSES["jsd"].plain_formula == "beta KL(p||m) + (1 - beta) KL(q||m), m = beta p + (1 - beta) q"
    assert LOSSES["sft"].plain_formula == "-log q(x), x the target's token"
    assert LOSSES["tvd_pp"].plain_formula == "-A log q(x), x sim q, A = normalised 1{p(x) > q(x)}".replace(
        " sim ", " ~ "
    )
    assert not any("\\" in loss.plain_formula for loss in LOSSES.values())


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(DraftbenchError, match="unknown loss 'forwrd_kl'") as caught:
        check_losses(["tvd", "forwrd_kl"])
    assert "did you mean 'forward_kl'?" in caught.value.fix
    assert "lk_hybrid" in caught.value.fix


def test_supervision_is_black_box_only_if_every_loss_is():
    assert supervision_of(["sft"]) == "black_box"
    assert supervision_of(["sft", "tvd"]) == supervision_of(["a loss of another version"]) == "white_box"
    assert [loss.name for loss in LOSSES.values() if loss.black_box] == ["sft"]
    assert isinstance(LOSSES["sft"], Loss)


def test_the_catalogue_and_the_schema_load_no_heavy_library():
    heavy = "('torch', 'transformers', 'numpy', 'duckdb')"
    modules = "engine.catalogue, engine.config.decisive, engine.config.reading"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    assert done.stdout.strip() == "[]"
