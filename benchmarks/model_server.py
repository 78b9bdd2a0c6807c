"""An OpenAI-compatible server over a model of Draftbench, for trying recipes that learn from a server.

    python benchmarks/model_server.py --port 8000                  # the embedded model, as "smollm2"
    draftbench run recipes/server.yaml --set capture.server.base_url=http://127.0.0.1:8000/v1 \\
        --set capture.server.model=smollm2

It answers POST /v1/chat/completions as vLLM does: content, finish_reason, token_ids, log-probabilities of the whole
distribution at temperature 1, usage. Requests that arrive together are answered in one batch. It listens to this
machine alone and supports no keys, tools or streams: it is for tests, not for serving.
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from engine.capture.generate import answer_prompts
from engine.capture.signal import signal_format
from engine.chat.prompt import Prompt
from engine.chat.rendering import render
from engine.config.schema import DEFAULT_TARGET, ModelSpec
from engine.decode.sampling import Sampling
from engine.errors import DraftbenchError
from engine.models.load import LoadedModel, load_model

_BATCH = 64
_GATHER_S = 0.1  # requests that come within this time share a batch


@dataclass
class Asked:
    """One request on its way through the batch."""

    body: dict[str, Any]
    prompt_ids: list[int]
    done: threading.Event = field(default_factory=threading.Event)
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> tuple[float, int, float, int, int]:
        """What requests of one batch have in common: temperature, top_k, top_p, length, seed."""
        body = self.body
        return (
            float(body.get("temperature") or 0.0),
            max(0, int(body.get("top_k") or 0)),
            float(body.get("top_p") or 1.0),
            int(body.get("max_tokens") or body.get("max_completion_tokens") or 128),
            int(body.get("seed") or 0),
        )


class Answerer:
    """The model, and a thread that answers what was asked in batches."""

    def __init__(self, loaded: LoadedModel, name: str) -> None:
        self.loaded, self.name = loaded, name
        self.waiting: queue.Queue[Asked] = queue.Queue()
        threading.Thread(target=self._work, daemon=True).start()

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request. Raises DraftbenchError for messages that the chat template does not take."""
        prompt = Prompt("asked", tuple(body["messages"]), tuple(body.get("tools") or ()))
        target = self.loaded
        ids = render(target.tokenizer, prompt, context_tokens=target.context_tokens, max_new_tokens=1)
        asked = Asked(body, ids)
        self.waiting.put(asked)
        asked.done.wait()
        return asked.answer

    def _work(self) -> None:
        while True:
            batch = [self.waiting.get()]
            time.sleep(_GATHER_S)
            while len(batch) < _BATCH and not self.waiting.empty():
                batch.append(self.waiting.get())
            kinds: dict[Any, list[Asked]] = {}
            for asked in batch:
                kinds.setdefault(asked.kind[:-1], []).append(asked)
            for alike in kinds.values():
                self._answer(alike)

    def _answer(self, batch: list[Asked]) -> None:
        temperature, top_k, top_p, most, _ = batch[0].kind
        target = self.loaded
        answers = answer_prompts(
            target.model,
            [asked.prompt_ids for asked in batch],
            [f"{asked.kind[-1]}:{asked.prompt_ids}" for asked in batch],
            Sampling(temperature, top_k, top_p),
            max_new_tokens=most,
            stop_ids=target.stop_ids,
            seed=0,
            batch_size=_BATCH,
            signal=signal_format("none", target.model, 1),
        )
        for answer in answers:
            asked = batch[answer.index]
            asked.answer = self._body(asked, answer.token_ids, answer.finish_reason)
            asked.done.set()

    def _body(self, asked: Asked, ids: list[int], reason: str) -> dict[str, Any]:
        tokenizer = self.loaded.tokenizer
        stopped = bool(ids) and ids[-1] in self.loaded.stop_ids
        message = {"role": "assistant", "content": tokenizer.decode(ids[:-1] if stopped else ids)}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": reason, "token_ids": ids}
        if asked.body.get("logprobs"):
            top = int(asked.body.get("top_logprobs") or 0)
            choice["logprobs"] = {"content": self._logprobs(asked.prompt_ids, ids, top)}
        usage = {"prompt_tokens": len(asked.prompt_ids), "completion_tokens": len(ids)}
        usage["total_tokens"] = sum(usage.values())
        return {"object": "chat.completion", "model": self.name, "choices": [choice], "usage": usage}

    @torch.no_grad()
    def _logprobs(self, prompt_ids: list[int], ids: list[int], top: int) -> list[dict[str, Any]]:
        """log p at temperature 1 of each token written, and of the `top` likeliest ones there."""
        given = torch.tensor([[*prompt_ids, *ids]], device=self.loaded.device)
        logits = self.loaded.model(input_ids=given).logits[0, len(prompt_ids) - 1 : -1].float()
        every = torch.log_softmax(logits, -1)
        best, likeliest = every.topk(max(1, top), dim=-1)
        logprobs = every.gather(-1, torch.tensor(ids, device=every.device)[:, None])[:, 0]
        rows = zip(ids, logprobs.tolist(), likeliest.tolist(), best.tolist(), strict=True)
        return [
            {
                "token": f"token_id:{i}",
                "logprob": p,
                "top_logprobs": [{"token": f"token_id:{j}", "logprob": q} for j, q in zip(others, theirs, strict=True)],
            }
            for i, p, others, theirs in rows
        ]


def handler(answerer: Answerer) -> type[BaseHTTPRequestHandler]:
    """The HTTP side: /v1/models and /v1/chat/completions."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._say(200, {"object": "list", "data": [{"id": answerer.name, "object": "model"}]})

        def do_POST(self) -> None:
            try:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
                if body.get("model") != answerer.name:
                    self._say(404, {"error": {"message": f"no model {body.get('model')!r}; there is {answerer.name}"}})
                    return
                self._say(200, answerer.ask(body))
            except (DraftbenchError, ValueError, LookupError, TypeError) as error:
                self._say(400, {"error": {"message": str(error)}})

        def _say(self, status: int, body: dict[str, Any]) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Silence."""

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default=DEFAULT_TARGET, help="as target.model in a recipe")
    parser.add_argument("--adapter", help="as target.adapter in a recipe")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--name", default="smollm2", help="name of the model in requests")
    arguments = parser.parse_args()
    spec = ModelSpec(model=arguments.model, adapter=arguments.adapter, dtype=arguments.dtype)
    answerer = Answerer(load_model(spec), arguments.name)
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), handler(answerer))
    print(f"serving {arguments.name} at http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
