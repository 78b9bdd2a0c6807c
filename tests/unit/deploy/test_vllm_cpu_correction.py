"""The corrected kernel, on the tensors that vLLM gives it."""

from __future__ import annotations

import torch

from engine.deploy.vllm_cpu_correction import expand, register


def test_settings_are_written_once_per_proposed_token_in_their_own_type():
    counts = torch.tensor([3, 3, 5], dtype=torch.int32)  # the second request has no proposal
    temperatures = torch.full((5,), 1e30)
    expand(temperatures, torch.tensor([0.0, 0.5, 0.7]), counts, 0, 1)
    assert torch.equal(temperatures, torch.tensor([1.0, 1.0, 1.0, 0.7, 0.7]))
    top_k = torch.full((5,), -7, dtype=torch.int32)
    expand(top_k, torch.tensor([40, 1, 2], dtype=torch.int32), counts, 0, 0, 8)
    assert top_k.tolist() == [40, 40, 40, 2, 2]


def test_where_there_is_no_vllm_nothing_is_replaced():
    register()
