"""The address of a capture: stored captures must stay where every later version looks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.capture.plan import plan_capture
from engine.config.schema import CaptureSpec, ServerSpec
from engine.served.capture import plan_served
from tests.conftest import tiny_llama
from tests.tiny_pair import loaded, questions


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"signal": "exact"}, "38decaf12793b859381f97a7"),
        ({"signal": "compact"}, "503dbfa2c496440989e7d772"),
        ({"signal": "none"}, "b8f4d465915d4867acc4e8f0"),
    ],
)
def test_the_address_of_a_capture_of_the_targets_own_answers(tmp_path: Path, settings: dict[str, str], address: str):
    assert plan_capture(tmp_path, loaded(tiny_llama()), questions(), CaptureSpec(**settings)).address == address


@pytest.mark.parametrize(("told", "address"), [(False, "189807572ea566459f8fb6ae"), (True, "b1ee7bea1135462ec1fed498")])
def test_the_address_of_a_capture_of_a_servers_answers(tmp_path: Path, told: bool, address: str):
    server = ServerSpec(base_url="http://127.0.0.1:8000/v1/", model="m")
    settings = CaptureSpec(signal="none", server=server)
    assert plan_served(tmp_path, loaded(tiny_llama()), questions(), settings, with_logprobs=told).address == address
