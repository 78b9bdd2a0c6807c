"""A run's draft on a real server: predict, start the server, send the held-out prompts, and compare.

The prediction is made before the server is started: the walk over the target's own text by that server's rule
(`engine.deploy.server_rounds`). Two more comparisons say where a gap comes from. Our draft is walked over the very
texts that the server wrote: if the counts are the same, draft and rule are as predicted, and only the texts differ.
And the texts are compared with the target: the greedy ones token for token, the drawn ones by how often its likeliest
token came.
"""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.capture.answered import AnsweredPrompt
from engine.capture.store import Capture
from engine.catalogue import SERVERS, Proposals
from engine.chat.rendering import conversation, render
from engine.config.schema import Recipe
from engine.deploy.answer_log import AnswerLog
from engine.deploy.by_gamma import round_cost
from engine.deploy.llama_server import LlamaServer
from engine.deploy.parity_bench import Bench
from engine.deploy.parity_forms import exported_pair
from engine.deploy.parity_rows import Case, parity_row, served_measurement, with_speed
from engine.deploy.parity_texts import Walk, predicted
from engine.deploy.server_setup import find_executable, find_package
from engine.deploy.serving import Asked, Deployment, ServedAnswer, Server
from engine.deploy.vllm_server import VllmServer
from engine.errors import DraftbenchError
from engine.export.check_text import CheckText, text_at_hand
from engine.export.for_server import Wishes, check_plan, plan
from engine.fileio import read_json
from engine.models.context import refuse_beyond_draft
from engine.models.draft import load_draft
from engine.models.load import LoadedModel
from engine.paths import Home
from engine.progress import Progress
from engine.records.parity import ParityReport
from engine.runs.advice import best_draft
from engine.runs.folder import RunFolder
from engine.runs.plan import PromptSplit
from engine.runs.session import capture, in_float32, load_target

KINDS: dict[str, Server] = {"llama.cpp": LlamaServer(), "vllm": VllmServer()}
_CHAT_PROMPTS = 4
_CONTEXT_STEP = 256


@dataclass(frozen=True)
class ParityOptions:
    """What is asked. None: all prompts, the run's temperatures and gamma, the server's rules, its usual program.

    `timed`: prompts that are also answered without the draft, one at a time; 0 leaves speed out. `answers`: a file that
    keeps answers, so that a second call asks only for the rest. `minutes`: no request begins later than that after the
    first server starts, and what was answered is reported.
    """

    prompts: int | None = None
    temperatures: tuple[float, ...] | None = None
    gamma: int | None = None
    proposals: tuple[Proposals, ...] | None = None
    timed: int = 12
    program: Path | None = None
    answers: Path | None = None
    minutes: float | None = None


def parity(home: Home, run: RunFolder, server_name: str, options: ParityOptions, progress: Progress) -> ParityReport:
    """Measure a run's best draft on a real server; writes and returns the report.

    Raises DraftbenchError if the server is not here, would refuse the pair, or answers in a form that is not known.
    """
    package = find_package(server_name)
    server = KINDS[package.name]
    rules = _rules(server_name, options)
    weights = read_json(best_draft(run) / "draft.json")["weights_sha256"]
    recipe, notes = _recipe(run, options)
    gamma = recipe.measure.num_draft_tokens
    made = plan(run, recipe, Wishes(server=server_name, gamma=gamma, target="merged"))
    check_plan(made)
    notes += [made.unlike] if made.unlike else []
    executable = find_executable(package, options.program)
    version = server.version(executable)
    progress.note(f"{server_name} {version}: {executable}")
    target = load_target(recipe)
    exact = in_float32(target)
    draft = load_draft(best_draft(run), exact)
    text, captures = _captured(home, run, recipe, target, options.prompts, progress)
    walk = Walk(gamma, recipe.measure.max_new_tokens - gamma, server.rule)
    answers = {t: _answers_of(made, text, options.prompts) for t, made in captures.items()}
    refuse_beyond_draft(draft.model, [(a.prompt_id, len(a.prompt_ids) + walk.limit) for a in answers[min(answers)]])
    cases = [
        Case(t, rule, answers[t], predicted(draft, target, captures[t], answers[t], t, rule, walk))
        for rule in rules
        for t in captures
        if t > 0 or rule == rules[0]  # at temperature 0 a drawn proposal is the likeliest one
    ]
    folder = run.path / "parity" / server_name
    with tempfile.TemporaryDirectory(prefix="draftbench-parity-") as temporary:
        progress.note(f"exports the draft and its target as {SERVERS[server_name].weights}")
        pair = exported_pair(home, run, target, server_name, gamma, Path(temporary) / "pair")
        bench = Bench(
            server,
            executable,
            Deployment(pair.target, pair.draft, gamma, rules[0], _context(cases, walk, target), target.dtype_name),
            folder,
            AnswerLog(options.answers, [server_name, version, weights, target.fingerprint, gamma]),
            progress,
            None if options.minutes is None else time.monotonic() + 60 * options.minutes,
        )
        served, timed, same_ids = _serve(bench, cases, rules, walk.limit, options.timed, text, target)
        plain = bench.plain(timed_requests(cases, rules[0], walk.limit, options.timed))
    rows, cost = [], round_cost(run, gamma)
    for case in cases:
        row = parity_row(case, served[case.proposals], walk, draft, exact)
        rows.append(with_speed(row, timed[case.proposals], plain, cost))
    report = ParityReport(
        run=run.id,
        server=server_name,
        version=version,
        recorded_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        num_draft_tokens=gamma,
        limit=walk.limit,
        dtype="float16" if SERVERS[server_name].weights == "gguf" else target.dtype_name,
        prompts_from=text.origin,
        chat_asked=len(same_ids),
        chat_same=sum(same_ids),
        rows=rows,
        commands=bench.commands,
        notes=[*notes, *pair.notes, *bench.notes],
    )
    _store(run, folder, report, cases, served)
    return report


def _serve(
    bench: Bench,
    cases: Sequence[Case],
    rules: Sequence[Proposals],
    limit: int,
    timed: int,
    text: CheckText,
    target: LoadedModel,
) -> tuple[dict[Proposals, list[ServedAnswer]], dict[Proposals, list[ServedAnswer]], list[bool]]:
    """Answers and timed answers by rule, and whether the chat route makes the ids that prompts are rendered to."""
    served: dict[Proposals, list[ServedAnswer]] = {}
    clocked: dict[Proposals, list[ServedAnswer]] = {}
    prompts = text.prompts.measured[:_CHAT_PROMPTS]
    same_ids: list[bool] = []
    for rule in rules:
        chats = [] if served else [conversation(target.tokenizer, prompt) for prompt in prompts]
        asked = requests(cases, rule, limit)
        served[rule], clocked[rule], chat_ids = bench.with_draft(
            rule, asked, timed_requests(cases, rule, limit, timed), chats
        )
        if chats:
            ours = [render(target.tokenizer, prompt, context_tokens=None, max_new_tokens=0) for prompt in prompts]
            same_ids = [own == theirs for own, theirs in zip(ours, chat_ids, strict=True)]
    return served, clocked, same_ids


def requests(cases: Sequence[Case], rule: Proposals, limit: int) -> list[Asked]:
    """The requests of a rule, prompt by prompt at all temperatures: what is cut off by time is cut at all of them.

    Above temperature 0 each prompt has a seed of its own, the same at every attempt.
    """
    mine = [case for case in cases if case.proposals == rule]
    return [
        Asked(answer.prompt_id, tuple(answer.prompt_ids), case.temperature, limit, seed)
        for seed, answers in enumerate(zip(*(case.answers for case in mine), strict=True), 1)
        for case, answer in zip(mine, answers, strict=True)
    ]


def timed_requests(cases: Sequence[Case], rule: Proposals, limit: int, prompts: int) -> list[Asked]:
    """Those of the first prompts, which are timed with and without the draft."""
    per_prompt = sum(case.proposals == rule for case in cases)
    return requests(cases, rule, limit)[: prompts * per_prompt]


def _rules(server_name: str, options: ParityOptions) -> tuple[Proposals, ...]:
    known = SERVERS[server_name].proposals
    unknown = [rule for rule in options.proposals or () if rule not in known]
    if unknown:
        raise DraftbenchError(
            f"{server_name} does not propose by the rule {unknown[0]}",
            f"it knows {', '.join(known)}",
            "leave --proposals out",
        )
    return tuple(dict.fromkeys(options.proposals or known))


def _recipe(run: RunFolder, options: ParityOptions) -> tuple[Recipe, list[str]]:
    """The run's recipe as it is served, and in words what is otherwise than the run was measured."""
    recipe = run.recipe()
    measure = recipe.measure
    if measure.against == "server":
        raise DraftbenchError(
            f"run {run.id} was measured against a server's text",
            "parity starts a server of its own, with the weights of the target, and these are not at hand",
            "`draftbench served probe` asks the server that you have",
        )
    gamma = options.gamma or measure.num_draft_tokens
    if not 1 <= gamma < measure.max_new_tokens:
        raise DraftbenchError(
            f"gamma {gamma} with answers of {measure.max_new_tokens} tokens",
            "the last gamma tokens of a captured answer only say what would have become of proposals there",
            f"give --gamma from 1 to {measure.max_new_tokens - 1}",
        )
    notes = []
    if measure.top_p < 1 or measure.top_k > 0:
        notes.append("top_p and top_k of the run are left out: servers apply them in other orders")
    if gamma != measure.num_draft_tokens:
        notes.append(f"the run was measured at gamma {measure.num_draft_tokens}")
    served = {
        "temperatures": list(options.temperatures or measure.temperatures),
        "num_draft_tokens": gamma,
        "top_p": 1.0,
        "top_k": 0,
    }
    return recipe.model_copy(update={"measure": measure.model_copy(update=served)}), notes


def _captured(
    home: Home, run: RunFolder, recipe: Recipe, target: LoadedModel, prompts: int | None, progress: Progress
) -> tuple[CheckText, dict[float, Capture]]:
    """The held-out prompts at hand, and the target's answers to them by temperature.

    Of a few prompts only these are captured, unless all are already.
    """
    text = text_at_hand(home, run, recipe, target)
    if not text.prompts.measured:
        raise DraftbenchError(
            f"there is no prompt to send for run {run.id}",
            f"no prompt at hand fits the target: {text.origin}",
            "put the run's prompt files back, or fetch its packs with `draftbench data fetch --all`",
        )
    if prompts is not None and prompts < len(text.prompts.measured) and not text.captured(home, target):
        few = PromptSplit([], [], text.prompts.measured[:prompts])
        text = CheckText(text.recipe, few, f"the first {prompts} of {text.origin}")
    captures = {
        t: capture(f"held-out T={t:g}", made, target, text.recipe.capture, progress)
        for t, made in text.plans(home, target).items()
    }
    return text, captures


def _answers_of(made: Capture, text: CheckText, prompts: int | None) -> list[AnsweredPrompt]:
    """The captured answers to the measured prompts, in their order."""
    by_id = {answer.prompt_id: answer for answer in made.answers}
    return [by_id[prompt.id] for prompt in text.prompts.measured[:prompts]]


def _context(cases: Sequence[Case], walk: Walk, target: LoadedModel) -> int:
    """Tokens that the server must have room for: the longest prompt, its answer, and a proposal past its end."""
    longest = max(len(answer.prompt_ids) for case in cases for answer in case.answers)
    needed = longest + walk.limit + walk.gamma + 1
    room = -(-needed // _CONTEXT_STEP) * _CONTEXT_STEP
    return min(room, target.context_tokens or room)


def _store(
    run: RunFolder,
    folder: Path,
    report: ParityReport,
    cases: Sequence[Case],
    served: Mapping[Proposals, Sequence[ServedAnswer]],
) -> None:
    """Write the report, and each of its rows as a served measurement."""
    for case, row in zip(cases, report.rows, strict=True):
        place = run.path / "served" / f"parity-{report.server}-{case.proposals}-T{case.temperature:g}"
        place.mkdir(parents=True, exist_ok=True)
        served_measurement(report, row, case, served[case.proposals]).write(place)
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder)
