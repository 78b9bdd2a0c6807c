"""A run's draft on a real server: predict, start the server, send the held-out prompts, and compare.

The prediction is made before the server is started: the walk over the target's own text by that server's rule
(`engine.deploy.server_rounds`). Two more comparisons say where a gap comes from. Our draft is walked over the very
texts that the server wrote: if the counts are the same, draft and rule are as predicted, and only the texts differ.
And the texts are compared with the target: the greedy ones token for token, the drawn ones by how often its likeliest
token came.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.capture.store import AnsweredPrompt, Capture
from engine.catalogue import SERVERS, Proposals
from engine.chat.rendering import conversation
from engine.deploy.answer_log import AnswerLog
from engine.deploy.llama_server import LlamaServer
from engine.deploy.parity_forms import exported_pair
from engine.deploy.parity_rows import compared, speed
from engine.deploy.parity_texts import Walk, predicted
from engine.deploy.server_process import running
from engine.deploy.server_rounds import ExpectedRounds
from engine.deploy.server_setup import find_executable, find_package
from engine.deploy.serving import Asked, Deployment, ServedAnswer, Server
from engine.deploy.vllm_server import VllmServer
from engine.errors import DraftbenchError
from engine.export.check_text import CheckText, text_at_hand
from engine.fileio import read_json
from engine.models.draft import Draft, load_draft
from engine.models.load import LoadedModel
from engine.paths import Home
from engine.progress import Progress
from engine.records.parity import ParityReport, ParityRow
from engine.records.served import RoundTotals, ServedMeasurement
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder
from engine.runs.plan import PromptSplit
from engine.runs.session import capture, in_float32, load_target
from engine.served.http import Client

KINDS: dict[str, Server] = {"llama.cpp": LlamaServer(), "vllm": VllmServer()}
_CHAT_PROMPTS = 4
_CONTEXT_STEP = 256


@dataclass(frozen=True)
class ParityOptions:
    """What is asked. None: all prompts, the run's temperatures and gamma, the server's rules, its usual program.

    `timed`: prompts that are also answered without the draft, one at a time; 0 leaves speed out. `minutes`: no request
    begins later than that after the first; what was answered is reported.
    """

    prompts: int | None = None
    temperatures: tuple[float, ...] | None = None
    gamma: int | None = None
    proposals: tuple[Proposals, ...] | None = None
    timed: int = 12
    program: Path | None = None
    answers: Path | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Case:
    """One temperature and rule of proposing, with the answers that were captured and the rounds predicted for them."""

    temperature: float
    proposals: Proposals
    answers: list[AnsweredPrompt]
    rounds: list[ExpectedRounds]

    def asked(self, limit: int) -> list[Asked]:
        """The requests. Above temperature 0 each prompt has a seed of its own, the same at every attempt."""
        return [
            Asked(answer.prompt_id, answer.prompt_ids, self.temperature, limit, seed)
            for seed, answer in enumerate(self.answers, 1)
        ]


def parity(home: Home, run: RunFolder, server_name: str, options: ParityOptions, progress: Progress) -> ParityReport:
    """Measure a run's best draft on a real server; writes and returns the report.

    Raises DraftbenchError if the server is not here, refuses the pair, or answers in a form that is not known.
    """
    package, server = find_package(server_name), KINDS[find_package(server_name).name]
    executable = find_executable(package, options.program)
    version = server.version(executable)
    progress.note(f"{server.name}: {version}, {executable}")
    target = load_target(run.recipe())
    exact = in_float32(target)
    draft = load_draft(best_draft(run), exact)
    text, notes = _text(home, run, target, options)
    gamma = options.gamma or text.recipe.measure.num_draft_tokens
    walk = Walk(gamma, _limit(text, gamma), server.rule)
    captures = {
        t: capture(f"held-out T={t:g}", plan, target, text.recipe.capture, progress)
        for t, plan in text.plans(home, target).items()
    }
    names = [prompt.id for prompt in text.prompts.measured]
    cases = [_case(draft, target, captures[t], names, t, rule, walk) for t, rule in _cases(server, captures, options)]
    folder = run.path / "served" / f"parity-{server.name}"
    with tempfile.TemporaryDirectory(prefix="draftbench-parity-") as temporary:
        progress.note(f"exports the draft and its target as {SERVERS[server.name].weights}")
        pair = exported_pair(home, run, target, server.name, Path(temporary))
        deployment = Deployment(pair.target, pair.draft, gamma, "argmax", _context(cases, walk), target.dtype_name)
        conditions = [server.name, version, read_json(best_draft(run) / "draft.json")["weights_sha256"]]
        conditions += [target.fingerprint, gamma]
        bench = _Bench(server, executable, deployment, folder, AnswerLog(options.answers, conditions), progress)
        bench.until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
        served = {rule: bench.with_draft(rule, _of(cases, rule), walk.limit) for rule in _rules(cases)}
        chat = bench.chat(text, target, temporary_rule=_rules(cases)[0])
        plain, timed = bench.speed(_of(cases, _rules(cases)[0]), walk.limit, options.timed)
    rows = [_row(case, served[case.proposals], walk, draft, exact, plain, timed, run) for case in cases]
    report = ParityReport(
        run=run.id,
        server=server.name,
        version=version,
        recorded_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        num_draft_tokens=gamma,
        limit=walk.limit,
        dtype=target.dtype_name,
        prompts_from=text.origin,
        chat_asked=len(chat),
        chat_same=sum(chat),
        rows=rows,
        commands=bench.commands,
        notes=[*notes, *pair.notes, *bench.notes],
    )
    _store(run, folder, report, cases, served)
    return report
