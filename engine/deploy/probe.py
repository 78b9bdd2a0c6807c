"""Asking a live server: some prompts at some temperatures, one after another, and what it counts of them.

The server's own means are read: figures in its answers, `/metrics` before and after, or both. Where both count the
same tokens, the answers give the requests and the metrics the rounds; where they do not, others use the server too, and
the answers are kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import SecretStr, ValidationError

from engine.catalogue import SERVERS
from engine.chat.messages import for_api
from engine.chat.prompt import Prompt, prompts_hash
from engine.config.schema import ServerSpec
from engine.config.section import LEAST_TEMPERATURE, temperature_fault
from engine.deploy.detection import METRICS_BYTES, Detected, detect, get, root_of
from engine.deploy.importing import Stated, check_stated, measurement_of
from engine.deploy.probe_counts import ANSWERS, HOW_TO_REPORT, joined, of_answers, of_metrics
from engine.deploy.readers.documents import Document, document
from engine.deploy.readers.reading import Located, Reading, refused
from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import content_hash
from engine.progress import SILENT, Progress
from engine.records.served import ServedMeasurement
from engine.served.client import ChatServer, read_key, without_key
from engine.served.http import Client
from engine.served.replies import Reply, Unanswered
from engine.served.requests import request_all
from engine.served.token_counts import FAR_OFF
from engine.untrusted import json_text

MOST_PROMPTS = 10_000
_SCRAPES, _SETTLE_S = 4, 0.5  # counters may follow an answer a little later
_KEYS = {"capture.server.key_env": "--key-env", "capture.server.base_url": "the URL", "capture.server.model": "--model"}


@dataclass(frozen=True)
class Asked:
    """What to ask of a server. `stated`: what the user says of it."""

    base_url: str
    prompts: Sequence[Prompt]
    temperatures: Sequence[float] = (0.0, 1.0)
    max_new_tokens: int = 160
    model: str | None = None
    draft_model: str | None = None
    """Named in each request, as LM Studio wants it."""
    key_env: str | None = None
    concurrency: int = 1
    timeout_s: float = 120.0
    attempts: int = 3
    seed: int = 0
    notes: tuple[str, ...] = ()
    """What there is to say of the prompts."""
    stated: Stated = field(default_factory=Stated)


@dataclass(frozen=True)
class Probed:
    """What came of one temperature: the measurement, and what the server sent."""

    measurement: ServedMeasurement
    documents: Sequence[Document]


@dataclass
class _Answers:
    """Answers of the server as they come: by place of the prompt, its body and the seconds it took."""

    bodies: dict[int, bytes] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    far_off: int = 0
    """Answers whose count of tokens is far from their text."""


def probe(asked: Asked, progress: Progress = SILENT) -> list[Probed]:
    """Ask the server at each temperature. Raises DraftbenchError where it cannot be asked or reports nothing."""
    try:
        return asyncio.run(_probe(asked, progress))
    except DraftbenchError as error:
        raise _in_these_words(error) from None


async def _probe(asked: Asked, progress: Progress) -> list[Probed]:
    _check(asked)
    spec = _spec(asked, asked.model or "unknown")
    key = read_key(spec)
    async with Client(spec.base_url) as client:
        detected = await detect(client, spec, key)
        server = asked.stated.server or detected.name
        if not detected.answers:
            raise refused(
                f"no page of {asked.base_url} could be read",
                "no server answers there, or it wants a key",
                "start the server, or check address and key",
            )
        if server is None:
            raise refused(
                f"{asked.base_url} does not say which server it is",
                "each server counts speculation in its own way",
                f"name it: --server {'|'.join(ANSWERS)}",
            )
        if server not in ANSWERS:
            raise refused(f"{server} reports no speculation over HTTP", "", did_you_mean(server, ANSWERS))
        spec = _spec(asked, _model(asked, detected))
        progress.note(
            f"{SERVERS[server].title}{f' {detected.version}' if detected.version else ''} at {asked.base_url}"
        )
        return [
            await _at_temperature(client, spec, key, asked, detected, server, temperature, progress)
            for temperature in asked.temperatures
        ]


def _check(asked: Asked) -> None:
    if not 0 < len(asked.prompts) <= MOST_PROMPTS:
        raise refused(f"{len(asked.prompts)} prompts", f"1 to {MOST_PROMPTS:,} can be sent", "give some of them")
    if not asked.temperatures or not all(value <= 10 and not temperature_fault(value) for value in asked.temperatures):
        raise refused(
            f"temperatures {list(asked.temperatures)}",
            f"each is 0 or from {LEAST_TEMPERATURE} to 10",
            "for example 0,1",
        )
    check_stated(asked.stated)
    if asked.max_new_tokens < 2:
        raise refused(
            f"answers of {asked.max_new_tokens} tokens", "the first token needs no round", "ask for 2 or more"
        )


def _spec(asked: Asked, model: str) -> ServerSpec:
    try:
        return ServerSpec(
            base_url=asked.base_url,
            model=model,
            key_env=asked.key_env,
            concurrency=asked.concurrency,
            timeout_s=asked.timeout_s,
            attempts=asked.attempts,
        )
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        raise refused(
            f"{'.'.join(map(str, first['loc'])) or 'the URL'}: {first['msg']}",
            "the server cannot be asked so",
            "give the URL where the API begins, such as http://127.0.0.1:8000/v1",
        ) from None


def _model(asked: Asked, detected: Detected) -> str:
    model = asked.model or detected.model
    if model is None:
        raise refused(
            f"{asked.base_url} lists {len(detected.models)} models",
            "a request names one",
            f"name it with --model: {', '.join(detected.models[:8]) or 'as the server calls it'}",
        )
    return model


async def _at_temperature(
    client: Client,
    spec: ServerSpec,
    key: SecretStr | None,
    asked: Asked,
    detected: Detected,
    server: str,
    temperature: float,
    progress: Progress,
) -> Probed:
    before = await _scrape(client, spec, key, detected)
    answers, failed = await _ask(spec, key, asked, server, temperature, progress)
    located = _located(answers)
    reading = of_answers(server, located)
    for attempt in range(_SCRAPES):
        after = await _scrape(client, spec, key, detected)
        counted, unread = of_metrics(before, after)
        whole, agree = joined(reading, counted)
        if agree or before is None or attempt + 1 == _SCRAPES:
            break
        await asyncio.sleep(_SETTLE_S)
    if whole is None:
        raise refused(
            f"{spec.base_url} answers, and reports nothing of speculation",
            unread or "neither its answers nor its /metrics have figures of it",
            HOW_TO_REPORT[server],
        )
    whole = replace(whole, notes=(*whole.notes, *([unread] if unread else [])))
    measurement = _measurement(whole, asked, detected, server, temperature, answers, failed)
    documents = [document("answers.jsonl", b"\n".join(answers.bodies[i] for i in sorted(answers.bodies)))]
    for name, text in (("metrics-before.txt", before), ("metrics-after.txt", after)):
        documents += [document(name, text.encode())] if text and text.strip() else []
    return Probed(measurement, documents)


async def _ask(
    spec: ServerSpec, key: SecretStr | None, asked: Asked, server: str, temperature: float, progress: Progress
) -> tuple[_Answers, list[tuple[int, str]]]:
    bodies = [_body(asked, spec.model, server, temperature, prompt) for prompt in asked.prompts]
    places = {id(body): place for place, body in enumerate(bodies)}
    answers, began = _Answers(), dict[int, float]()
    progress.start(f"asking at T = {temperature:g}", len(bodies), "prompts")

    def seen(request: Mapping[str, Any], answer: bytes) -> None:
        place = places[id(request)]
        answers.bodies[place] = without_key(answer.decode("utf-8", "replace"), key).replace("\n", " ").encode()
        answers.seconds[place] = time.monotonic() - began.get(place, time.monotonic())

    def keep(place: int, reply: Reply) -> None:
        if reply.count_problem:
            del answers.bodies[place]  # what it counts of speculation is no surer
            raise Unanswered(reply.count_problem)
        answers.far_off += FAR_OFF in reply.noted
        if reply.completion_tokens is not None:
            answers.tokens[place] = reply.completion_tokens
        progress.advance()

    class Timed(ChatServer):
        async def answer(self, body: Mapping[str, Any]) -> Reply:
            began[places[id(body)]] = time.monotonic()
            return await super().answer(body)

    async with Timed(spec, key, note=progress.note, seen=seen) as chat:
        failed = await request_all(chat, bodies, keep, progress.stop_if_asked)
    progress.finish()
    if not answers.bodies:
        raise refused(
            f"{spec.base_url} gave none of {len(bodies)} prompts an answer that can be used",
            failed[0][1] if failed else "",
            "check the server's log",
        )
    return answers, failed


def _body(asked: Asked, model: str, server: str, temperature: float, prompt: Prompt) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": for_api(prompt.messages),
        "temperature": temperature,
        "top_p": 1.0,
        "max_tokens": asked.max_new_tokens,
        "seed": int(content_hash([asked.seed, prompt.id])[:7], 16),
        "stream": False,
    }
    body |= {"tools": list(prompt.tools)} if prompt.tools else {}
    body |= {"return_meta_info": True} if server == "sglang" else {}
    return body | ({"draft_model": asked.draft_model} if asked.draft_model else {})


def _located(answers: _Answers) -> list[Located]:
    """The answers as objects; one that is no JSON was no answer either."""
    return [
        Located(value, f"answer {place + 1}")
        for place in sorted(answers.bodies)
        if isinstance(value := json_text.loads(answers.bodies[place]), dict)
    ]


async def _scrape(client: Client, spec: ServerSpec, key: SecretStr | None, detected: Detected) -> str | None:
    if not detected.has_metrics:
        return None
    body = await get(client, f"{root_of(spec.base_url)}/metrics", key, most_bytes=METRICS_BYTES)
    return body.decode("utf-8", "replace") if body is not None else None


def _measurement(
    reading: Reading,
    asked: Asked,
    detected: Detected,
    server: str,
    temperature: float,
    answers: _Answers,
    failed: Sequence[tuple[int, str]],
) -> ServedMeasurement:
    notes = [*asked.notes, *reading.notes]
    if failed:
        notes.append(
            f"{len(failed):,} of {len(asked.prompts):,} prompts got no answer that can be used: {failed[0][1][:200]}"
        )
    if answers.far_off:
        notes.append(f"in {answers.far_off:,} of {len(answers.bodies):,} answers: {FAR_OFF}; the speed is by its count")
    per_request = reading.per_request if len(reading.per_request) == len(answers.bodies) else ()
    totals = reading.totals
    if totals.requests is None or not reading.per_request:
        totals = totals.model_copy(update={"requests": len(answers.bodies)})
    if not reading.seconds_by_request:
        notes.append("speed by this machine's clock, prompts included")
        pairs = [(answers.tokens[i], answers.seconds[i]) for i in answers.tokens if answers.seconds.get(i, 0) > 0]
        reading = replace(reading, seconds_by_request=tuple(pairs))
    stated = replace(
        asked.stated,
        server=server,
        temperature=temperature,
        gamma=asked.stated.gamma if asked.stated.gamma is not None or reading.gamma is not None else detected.gamma,
        weights=asked.stated.weights or detected.weights,
        concurrency=asked.concurrency,
        max_new_tokens=asked.max_new_tokens,
    )
    whole = replace(
        reading,
        totals=totals,
        per_request=tuple(per_request),
        version=reading.version or detected.version,
        model=reading.model or detected.model,
        notes=tuple(notes),
    )
    measurement = measurement_of(whole, "probe", stated)
    answered = [asked.prompts[place].id for place in sorted(answers.bodies)]
    return measurement.model_copy(
        update={
            "prompts_hash": prompts_hash(asked.prompts),
            "prompt_ids": answered if measurement.per_request else [],
        }
    )


def _in_these_words(error: DraftbenchError) -> DraftbenchError:
    """An error of the client, which speaks of a recipe, in the words of the command."""
    parts = [error.what, error.why, error.fix]
    for key, option in _KEYS.items():
        parts = [part.replace(key, option) for part in parts]
    return DraftbenchError(*parts)
