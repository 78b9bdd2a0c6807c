"""What of a recipe changes no weight and no exact rate."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from engine.config.decisive import decisive
from engine.config.reading import apply_overrides, parse_recipe


def values(*changes: str) -> dict[str, Any]:
    made = apply_overrides({"prompts": {"train": "a.jsonl", "heldout": "b.jsonl"}}, changes)
    return parse_recipe(made).model_dump(mode="json")


@pytest.mark.parametrize(
    "change",
    [
        "name=other",
        "notes=x",
        "capture.batch_size=3",
        "target.device_map=auto",
        "target={device_map: auto, max_memory_gb: {0: 1, cpu: 2}}",
        "target.tensor_parallel=2",
        "draft.device=cuda:1",
        "capture.signal_top_k=8",
        "train.checkpoint_every=1",
        "train.micro_batch_tokens=9",
        "measure.num_draft_tokens=5",
        "measure.adaptive=true",
        "measure.speed_prompts=1",
        "train.online.update_interval=3",
        "train.on_policy.share=0.1",
        "train.loss=[{name: forward_kl, beta: 0.2}]",
    ],
)
def test_what_changes_nothing_is_left_out(change: str):
    assert decisive(values(change)) == decisive(values())


@pytest.mark.parametrize(
    "change",
    [
        "train.eval_every=7",
        "train.eval_prompts=7",
        "train.epochs=2",
        "train.max_steps=9",
        "train={batch_tokens: 99}",
        "capture.seed=1",
        "measure.heldout_prompts=9",
        "draft.layers=2",
        "train.loss=jsd",
    ],
)
def test_what_changes_the_draft_or_its_rate_stays(change: str):
    assert decisive(values(change)) != decisive(values())


def test_with_dropout_in_an_adapter_the_size_of_a_pass_changes_the_weights():
    dropout, other = "draft.lora={dropout: 0.1}", "train.micro_batch_tokens=9"
    assert decisive(values(dropout)) != decisive(values(dropout, other))
    assert decisive(values("draft.lora={rank: 4}")) == decisive(values("draft.lora={rank: 4}", other))


def test_a_stream_has_no_epochs_steps_or_batches_of_the_recipe():
    stream = "train.mode=online"
    assert decisive(values(stream, "train.max_steps=9", "train.batch_size=2", "train.epochs=1")) == decisive(
        values(stream)
    )
    assert decisive(values(stream, "train.online.update_interval=3")) != decisive(values(stream))


def test_of_a_server_only_who_answers_counts_and_nothing_is_changed_in_place():
    server = ("capture.signal=none", "train.loss=sft", "capture.server={base_url: 'http://a/v1', model: m}")
    given = values(*server)
    kept = copy.deepcopy(given)
    assert decisive(given) == decisive(values(*server, "capture.server.attempts=2"))
    assert given == kept
    assert decisive(given) != decisive(values(*server, "capture.server.model=n"))
    assert decisive(values(*server[:2])) == decisive(
        {**values(*server[:2]), "capture": {k: v for k, v in values(*server[:2])["capture"].items() if k != "server"}}
    )  # an older recipe that lacks the key


def test_addresses_that_share_the_load_and_log_probabilities_not_asked_for_change_nothing():
    server = {"base_url": "http://a/v1", "model": "m"}

    def of(**more: Any) -> Any:
        made = parse_recipe(
            {
                "prompts": {"train": "a.jsonl", "heldout": "b.jsonl"},
                "capture": {"server": {**server, **more}, "signal": "compact" if more.get("logprobs") else "none"},
                "train": {"loss": "sft"},
            }
        )
        return decisive(made.model_dump(mode="json"))

    assert of(also_at=["http://b/v1"]) == of()
    assert "logprobs" not in of()["capture"]["server"]  # as in recipes from before it was there
    assert of(logprobs=20) != of()
