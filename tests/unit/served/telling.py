"""A server that tells a tiny model's log-probabilities as vLLM does, honestly or in one of the ways that mislead."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from engine.chat.prompt import Prompt
from engine.chat.rendering import render
from engine.models.load import LoadedModel
from engine.served.logprobs import TokenBytes
from tests.chat_server import Said

_KNOWN: WeakKeyDictionary[Any, dict[tuple[int, ...], torch.Tensor]] = (
    WeakKeyDictionary()
)  # several servers ask the same


@dataclass
class Telling:
    """A script for `tests.chat_server`.

    tells: "raw" log-probabilities of the whole distribution at temperature 1, as they should be; "processed" ones after
    temperature and top_p; "renormalised" over those that are sent; or "logits".
    names: tokens named by "id", by their "bytes", or by their "text" alone.
    most: likeliest tokens that its operator allows; `fewer`: sends so many less than it is asked for.
    """

    target: LoadedModel
    tells: str = "raw"
    names: str = "id"
    most: int = 20
    fewer: int = 0
    has_end: bool = True

    def __post_init__(self) -> None:
        self.spelling = TokenBytes(self.target.tokenizer)._bytes

    def __call__(self, body: dict[str, Any], number: int) -> Said:
        asked = body.get("top_logprobs", 0)
        if asked > self.most:
            return Said(400, {"error": {"message": f"Requested sample logprobs of {asked}, greater than {self.most}"}})
        prompt = Prompt("asked", tuple(body["messages"]))
        ids = render(self.target.tokenizer, prompt, context_tokens=None, max_new_tokens=0)
        content, written = [], []
        draws = random.Random(f"{body['seed']} {ids}")
        while len(written) < body["max_tokens"]:
            logits = self._logits([*ids, *written])
            drawn_from = self._processed(logits, body)
            if body["temperature"] == 0:
                token = int(logits.argmax())
            else:
                (token,) = draws.choices(range(len(logits)), weights=drawn_from.exp().tolist())
            reported = {"logits": logits, "processed": drawn_from}.get(self.tells, torch.log_softmax(logits, -1))
            content.append(self._entry(reported, token, asked, body))
            written.append(token)
            if token in self.target.stop_ids:
                break
        stopped = written[-1] in self.target.stop_ids
        text = b"".join(self.spelling[token] for token in (written[:-1] if stopped else written))
        if stopped and not self.has_end:
            content.pop()
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text.decode("utf-8", "replace")},
            "finish_reason": "stop" if stopped else "length",
        }
        choice |= {"token_ids": written} if self.names == "id" else {}
        choice |= {"logprobs": {"content": content}} if body.get("logprobs") else {}
        return Said(body={"choices": [choice], "usage": {"completion_tokens": len(written)}})

    @torch.no_grad()
    def _logits(self, ids: list[int]) -> torch.Tensor:
        known = _KNOWN.setdefault(self.target.model, {})
        if tuple(ids) not in known:
            known[tuple(ids)] = self.target.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        return known[tuple(ids)]

    def _processed(self, logits: torch.Tensor, body: dict[str, Any]) -> torch.Tensor:
        logprobs = torch.log_softmax(logits / (body["temperature"] or 1.0), -1)
        kept = logprobs.sort(descending=True)
        beyond = kept.values.exp().cumsum(-1) - kept.values.exp() >= body["top_p"]
        return torch.log_softmax(logprobs.index_fill(0, kept.indices[beyond], -torch.inf), -1)

    def _entry(self, logprobs: torch.Tensor, token: int, asked: int, body: dict[str, Any]) -> dict[str, Any]:
        """As vLLM: the token that was written comes first among the likeliest, and takes the last one's place."""
        best = [i for i in logprobs.topk(min(asked, len(logprobs))).indices.tolist() if i != token]
        listed = [token, *best][: asked - self.fewer]
        if self.tells == "renormalised":
            logprobs = logprobs - logprobs[torch.tensor(listed)].logsumexp(-1)
        named = body.get("return_tokens_as_token_ids", False) and self.names == "id"
        tops = [self._named(i, float(logprobs[i]), named) for i in listed]
        entry = {**self._named(token, float(logprobs[token]), named), "top_logprobs": tops}
        if named:  # of the token itself vLLM sends the bytes of the text that it shows
            entry["bytes"] = list(self.spelling[token].decode("utf-8", "replace").encode())
        return entry

    def _named(self, token: int, logprob: float, named: bool) -> dict[str, Any]:
        spelt = self.spelling[token]
        text = f"token_id:{token}" if named else spelt.decode("utf-8", "replace")
        entry: dict[str, Any] = {"token": text, "logprob": max(logprob, -9999.0)}
        return entry if self.names == "text" else entry | {"bytes": list(text.encode() if named else spelt)}
