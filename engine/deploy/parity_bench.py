"""Servers that are started, asked and ended again for one measurement of parity."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.catalogue import Proposals
from engine.chat.prompt import Message, Tool
from engine.deploy.answer_log import AnswerLog
from engine.deploy.server_process import running
from engine.deploy.serving import AnswerNotGiven, Asked, Deployment, ServedAnswer, Server
from engine.errors import DraftbenchError
from engine.progress import Progress
from engine.records.served import RoundTotals
from engine.served.http import Client

Conversation = tuple[Sequence[Message], Sequence[Tool]]

_PLAIN = "without the draft"


@dataclass
class Bench:
    """Starts servers of one kind. `until`: when, by the monotonic clock, no further request begins."""

    server: Server
    executable: Path
    deployment: Deployment
    folder: Path
    log: AnswerLog
    progress: Progress
    until: float | None = None
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def with_draft(
        self, proposals: Proposals, asked: Sequence[Asked], timed: Sequence[Asked], chats: Sequence[Conversation]
    ) -> tuple[list[ServedAnswer], list[ServedAnswer], list[list[int]]]:
        """Answers, timed answers, and the ids that the chat route makes of some conversations."""
        deployment = replace(self.deployment, proposals=proposals)
        with self._started(deployment, f"{self.server.name}-{proposals}") as url:
            chat_ids = asyncio.run(self._chat(url, chats))
            answers = asyncio.run(self._ask_all(url, asked, proposals, timed=False))
            again = asyncio.run(self._ask_all(url, timed, proposals, timed=True))
        for answer in (*answers, *again):
            self._check_counted(answer)
        return answers, again, chat_ids

    def plain(self, timed: Sequence[Asked]) -> list[ServedAnswer]:
        """Timed answers of the target alone. One that reports rounds is refused: it would not be plain."""
        if not timed:
            return []
        with self._started(replace(self.deployment, draft=None), f"{self.server.name}-plain") as url:
            answers = asyncio.run(self._ask_all(url, timed, _PLAIN, timed=True))
        if any(answer.totals is not None for answer in answers):
            raise DraftbenchError(
                f"{self.server.name} reports rounds of a draft that it was not given",
                "the speed without the draft would be that of another one",
                "report this with the server's log",
            )
        return answers

    @contextmanager
    def _started(self, deployment: Deployment, name: str) -> Iterator[str]:
        program = self.server.program(self.executable, deployment)
        log = self.folder / f"{name}.log"
        self.progress.note(f"starts {shlex.join(program.command)}")
        self.commands.append(shlex.join(program.command))
        with running(program, log, health=self.server.health, startup_s=self.server.startup_s) as server:
            self.progress.note(f"it answers after {server.startup_s:.0f} s; its log is {log}")
            yield server.base_url

    async def _chat(self, url: str, chats: Sequence[Conversation]) -> list[list[int]]:
        async with Client(url) as client:
            return [await self.server.chat_ids(client, url, messages, tools) for messages, tools in chats]

    async def _ask_all(self, url: str, asked: Sequence[Asked], served: str, *, timed: bool) -> list[ServedAnswer]:
        """Answers to those that were asked in time, in their order. Those in the log are not asked again."""
        what = f"{self.server.name}, {served}{', timed' if timed else ''}"
        alone = timed or self.server.concurrency == 1
        timed = timed and self.server.concurrency > 1  # a server that is asked one by one is timed anyway
        kept = [self.log.get(served, one, timed=timed) for one in asked]
        self.progress.start(what, len(asked), "answers", done=sum(answer is not None for answer in kept))
        not_given: list[str] = []
        turn = asyncio.Semaphore(1 if alone else self.server.concurrency)

        async def one(client: Client, request: Asked) -> ServedAnswer | None:
            async with turn:
                if self.until is not None and time.monotonic() > self.until:
                    return None
                try:
                    answer = await self.server.ask(client, url, request, timed=timed)
                except AnswerNotGiven as error:
                    not_given.append(error.what)
                    return None
            self.log.add(served, request, answer, timed=timed)
            self.progress.advance(1)
            return answer

        async def all_of_them() -> list[ServedAnswer | None]:
            async with Client(url) as client, asyncio.TaskGroup() as group:
                tasks = [
                    None if answer is not None else group.create_task(one(client, request))
                    for request, answer in zip(asked, kept, strict=True)
                ]
            return [answer if task is None else task.result() for task, answer in zip(tasks, kept, strict=True)]

        try:
            answers = await all_of_them()
        except BaseExceptionGroup as group:  # the first refusal says it; the others were cancelled
            raise group.exceptions[0] from None
        finally:
            self.progress.finish()
        missing = sum(answer is None for answer in answers) - len(not_given)
        if missing:
            self.notes.append(f"{what}: {missing} of {len(asked)} prompts were not asked, as the time was over")
        if not_given:
            self.notes.append(
                f"{what}: {len(not_given)} of {len(asked)} answers were written and not sent, so they are left out: "
                f"{not_given[0]}"
            )
        return [answer for answer in answers if answer is not None]

    def _check_counted(self, answer: ServedAnswer) -> None:
        if answer.totals is None and len(answer.token_ids) > 1:
            raise DraftbenchError(
                f"{self.server.name} wrote {len(answer.token_ids)} tokens and reports no rounds",
                "it does not use the draft, or does not say what became of its proposals",
                f"see its log in {self.folder}",
            )


def totals_of(answer: ServedAnswer, gamma: int) -> RoundTotals:
    """The rounds of one answer; an answer of one token has none, and some servers then report nothing."""
    if answer.totals is not None:
        return answer.totals
    emitted = len(answer.token_ids)
    return RoundTotals(requests=1, rounds=0, proposed=0, accepted=0, accepted_at=[0] * gamma, emitted=emitted)
