"""Settings without effect are named, and nothing else is."""

from __future__ import annotations

import pytest

from engine.config.idle import idle_settings
from engine.config.reading import apply_overrides, load_recipe, parse_recipe
from engine.paths import PROJECT_ROOT

PROMPTS = {"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}}
SERVER = "capture.server={base_url: http://a/v1, model: m, logprobs: 20}"


def idle(*settings: str) -> list[str]:
    return idle_settings(parse_recipe(apply_overrides(PROMPTS, settings)))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["train.loss={name: forward_kl, beta: 0.1}"], ["train.loss.beta=0.1"]),
        (["train.loss=[{name: jsd, beta: 0.1}, {name: tvd, eta: 2}]"], ["train.loss.2.eta=2.0"]),
        (["train.online.update_interval=4"], ["train.online.update_interval=4"]),
        (["train.mode=online", "train.online.stream=replay", "train.epochs=2"], ["train.epochs=2.0"]),
        (["capture.signal_top_k=8"], ["capture.signal_top_k=8"]),
        (["draft={init: checkpoint, checkpoint: x, layers: [0, 2]}"], ["draft.layers=[0, 2]"]),
        (["train.on_policy.anchors=2", "train.mode=on_policy"], ["train.on_policy.anchors=2"]),
        (["train.loss=sft", "train.distill_temperature=2"], ["train.distill_temperature=2.0"]),
        (["capture.temperature=0", "capture.top_p=0.9"], ["capture.top_p=0.9"]),
        (["train.mode=on_policy", "train.on_policy={share: 0, temperature: 2}"], ["train.on_policy.temperature=2.0"]),
        (
            [SERVER, "capture.signal=compact", "measure={against: server, trace_prompts: 2, max_new_tokens: 9}"],
            ["measure.trace_prompts=2"],
        ),
        (
            ["task=measure", "prompts.train=[]", "train={epochs: 2, seed: 4, loss: jsd}", "capture.top_p=0.5"],
            ["capture.top_p=0.5", "train.loss.name=jsd", "train.epochs=2.0"],
        ),
    ],
)
def test_a_setting_that_nothing_reads_is_named(settings: list[str], expected: list[str]):
    assert idle(*settings) == expected


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["train.loss={name: jsd, beta: 0.1}"],
        ["train.loss=[sft, tvd]", "train.distill_temperature=2"],
        ["train={batch_tokens: 99}"],
        ["capture.signal=compact", "capture.signal_top_k=8"],
        ["train.mode=online", "train.online={stream: replay, update_interval: 4}"],
        ["target.template_date=run:2026-01-31"],
        ["target.template_date=2026-01-31"],
        ["draft.lora={}", "target.quantize=int8"],
        ["task=measure", "prompts.train=[]", "measure.trace_prompts=3"],
    ],
)
def test_what_has_an_effect_or_was_not_given_is_not_named(settings: list[str]):
    assert idle(*settings) == []


def test_shipped_recipes_give_nothing_without_effect_but_what_a_base_gives():
    paths = sorted((PROJECT_ROOT / "recipes").glob("*.yaml"))
    assert {path.stem for path in paths if idle_settings(load_recipe(path))} == {"online", "server", "served_signal"}
