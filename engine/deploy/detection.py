"""Which server answers at an address, as far as it says so itself: read, never guessed from the port.

- `GET /v1/models`: `owned_by` is vllm, sglang, llamacpp or TensorRT-LLM's; LM Studio's is its organisation.
- `GET /props`: llama-server, with its build and the file type of the weights.
- `GET /server_info` (before: `/get_server_info`): SGLang, with gamma. `GET /version`: vLLM and TensorRT-LLM.
- `GET /metrics`: the prefix of the counters.

All replies are bounded and may be missing, of another type, or a stranger's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from engine.config.schema import ServerSpec
from engine.served.client import holds_key, without_key
from engine.served.http import BadAddress, Client, NoResponse, TooLarge
from engine.untrusted import json_text

_OWNERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama.cpp",
    "tensorrt_llm": "tensorrt-llm",
    "tensorrt-llm": "tensorrt-llm",
    "organization_owner": "lm-studio",
}
_PREFIXES = {"vllm:": "vllm", "sglang:": "sglang", "llamacpp:": "llama.cpp", "trtllm_": "tensorrt-llm"}
_PAGES = ("props", "server_info", "get_server_info", "version")
_SECONDS = 10.0
_INFO_BYTES, METRICS_BYTES = 4 * 2**20, 16 * 2**20
_MOST_GAMMA = 64
_WORD = 100  # characters of a version or a precision


@dataclass(frozen=True)
class Detected:
    """What a server says of itself. `name`: of `engine.catalogue.SERVERS`; None where nothing says it."""

    name: str | None = None
    version: str | None = None
    model: str | None = None
    """The one model that it lists; None if it lists none or several."""
    models: tuple[str, ...] = ()
    weights: str | None = None
    gamma: int | None = None
    has_metrics: bool = False
    answers: bool = True
    """Whether any page could be read."""


def root_of(base_url: str) -> str:
    """The address of the server itself: without the part of the API.

    >>> root_of("http://127.0.0.1:8000/v1/")
    'http://127.0.0.1:8000'
    """
    url = base_url.rstrip("/")
    for ending in ("/api/v0", "/v1"):
        url = url.removesuffix(ending)
    return url


async def detect(client: Client, spec: ServerSpec, key: SecretStr | None) -> Detected:
    """Ask the server what it is. Never raises for what it answers, or does not."""
    root = root_of(spec.base_url)
    timeout_s = min(_SECONDS, spec.timeout_s)
    pages = [f"{spec.base_url.rstrip('/')}/models", *(f"{root}/{page}" for page in _PAGES)]
    *bodies, metrics_text = await asyncio.gather(
        *(get(client, page, key, timeout_s=timeout_s) for page in pages),
        get(client, f"{root}/metrics", key, timeout_s=timeout_s, most_bytes=METRICS_BYTES),
    )
    models, props, info, older_info, version = (_object(body) for body in bodies)
    info, metrics = info or older_info, metrics_text or b""
    listed = [model for model in models.get("data", []) if isinstance(model, dict)] if _is_list(models) else []
    names = tuple(name for model in listed[:1000] if (name := _word(model.get("id"), key, 200)) is not None)
    name = _name(listed, props, info, metrics)
    return Detected(
        name,
        version=_word(props.get("build_info"), key)
        or _word(info.get("version"), key)
        or _word(version.get("version"), key),
        model=names[0] if len(names) == 1 else None,
        models=names,
        weights=_word(props.get("model_ftype"), key),
        gamma=_gamma(info),
        has_metrics=bool(metrics.strip()),
        answers=metrics_text is not None or any(body is not None for body in bodies),
    )


async def get(
    client: Client, url: str, key: SecretStr | None, *, timeout_s: float = _SECONDS, most_bytes: int = _INFO_BYTES
) -> bytes | None:
    """The body of a page; None where there is none, it is too large, or it repeats the key."""
    headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
    try:
        response = await client.call("GET", url, headers=headers, timeout_s=timeout_s, most_bytes=most_bytes)
    except (NoResponse, TooLarge, BadAddress):
        return None
    if not response.is_success or holds_key(response.text, key):
        return None
    return response.body


def _object(body: bytes | None) -> Mapping[str, Any]:
    try:
        value = json_text.loads(body) if body else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) and not json_text.too_deep(value) else {}


def _is_list(models: Mapping[str, Any]) -> bool:
    return isinstance(models.get("data"), list)


def _name(
    listed: list[dict[str, Any]], props: Mapping[str, Any], info: Mapping[str, Any], metrics: bytes
) -> str | None:
    owners = {str(model.get("owned_by", "")).lower() for model in listed}
    known = {_OWNERS[owner] for owner in owners if owner in _OWNERS}
    if len(known) == 1:
        return known.pop()
    if "default_generation_settings" in props:
        return "llama.cpp"
    if any(str(name).startswith("speculative_") for name in info) or "internal_states" in info:
        return "sglang"
    lines = metrics.decode("utf-8", "replace").splitlines()
    servers = {name for prefix, name in _PREFIXES.items() if any(line.startswith(prefix) for line in lines)}
    return servers.pop() if len(servers) == 1 else None


def _gamma(info: Mapping[str, Any]) -> int | None:
    """Draft tokens of a round in SGLang's words: its number has the target's own token in it."""
    count = info.get("speculative_num_draft_tokens")
    if not isinstance(count, int) or isinstance(count, bool):
        return None
    return count - 1 if 2 <= count <= _MOST_GAMMA + 1 else None


def _word(value: Any, key: SecretStr | None, most: int = _WORD) -> str | None:
    return without_key(value, key) if isinstance(value, str) and 0 < len(value) <= most else None
