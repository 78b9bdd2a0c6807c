"""Synthetic acceptance: the flags, read and drawn from by each server's rule, give the rates that were asked for."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise

import numpy as np
import pytest

from engine.catalogue import SERVERS
from engine.deploy.synthetic import synthetic_for, tokens_per_round

RATES = (0.71, 0.48, 0.31)


def drawn(joint: list[float], rounds: int = 20_000) -> np.ndarray:
    """Joint acceptance by place of rounds drawn as vLLM and llama.cpp draw them: place by place, while accepted."""
    rng = np.random.default_rng(0)
    conditional = [rate / before if before else 0.0 for before, rate in pairwise([1.0, *joint])]
    kept = np.cumprod(rng.random((rounds, len(joint))) < conditional, axis=1)
    return np.asarray(kept.mean(axis=0))


def vllm_rates(flags: str) -> list[float]:
    settings = json.loads(shlex.split(flags)[1])
    assert settings["rejection_sample_method"] == "synthetic"
    rates = settings["synthetic_acceptance_rates"]
    assert len(rates) == settings["num_speculative_tokens"]
    return list(rates)


def llama_rates(flags: str) -> list[float]:
    arguments = shlex.split(flags)
    rates = [float(rate) for rate in arguments[arguments.index("--spec-synth-rates") + 1].split(",")]
    assert len(rates) == int(arguments[arguments.index("--spec-draft-n-max") + 1])
    return rates


@pytest.mark.parametrize(("server", "read"), [("vllm", vllm_rates), ("llama.cpp", llama_rates)])
@pytest.mark.parametrize("rates", [RATES, (0.5,), (1.0, 1.0), (0.3, 0.0), (0.0,), (0.33333, 0.33333)])
def test_rates_by_place_are_joint_and_come_out_of_the_servers_draws(server, read, rates):
    given = read(synthetic_for(server, rates).flags)
    assert given == pytest.approx(rates, abs=1e-4)
    assert all(later <= earlier for earlier, later in pairwise(given))
    assert drawn(given) == pytest.approx(rates, abs=0.015)


def test_sglang_gets_the_tokens_per_round_and_tensorrt_llm_one_less():
    sglang = dict(synthetic_for("sglang", RATES).environment)
    assert float(sglang["SGLANG_SIMULATE_ACC_LEN"]) == pytest.approx(tokens_per_round(RATES), abs=1e-3)
    assert sglang["SGLANG_SIMULATE_ACC_METHOD"] == "match-expected"
    ((name, value),) = synthetic_for("tensorrt-llm", RATES).environment
    assert name == "TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"
    assert float(value) == pytest.approx(tokens_per_round(RATES) - 1, abs=1e-3)


@pytest.mark.parametrize("server", SERVERS)
def test_every_server_of_the_catalogue_has_flags_or_says_that_it_has_none(server):
    synthetic = synthetic_for(server, RATES)
    assert synthetic.server == server
    if server in ("transformers", "lm-studio"):
        assert (synthetic.flags, synthetic.environment) == ("", ())
        assert "no flag" in synthetic.notes[0]
    else:
        assert synthetic.flags or synthetic.environment
        assert "timing alone" in synthetic.notes[0]


@pytest.mark.parametrize("rates", [(), (0.3, 0.5), (1.2,), (float("nan"),)])
def test_what_is_no_joint_acceptance_is_refused(rates):
    with pytest.raises(ValueError, match="rounds"):
        synthetic_for("vllm", rates)
