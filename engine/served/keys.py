"""The environment variables that may be sent to each server, confirmed before first use and stored in the home.

A recipe names the variable that holds a server's key. A stranger's recipe could name any variable and a server of the
stranger's, so each pair is confirmed once: on the Launch page, in a terminal, or by `draftbench allow-key`. The value
is never written anywhere.
"""

from __future__ import annotations

import json
import re
from shlex import quote
from urllib.parse import urlsplit

from filelock import FileLock

from engine.config.capture import KEY_VARIABLE
from engine.config.schema import ServerSpec
from engine.errors import DraftbenchError
from engine.fileio import read_json, write_atomic
from engine.paths import Home

_FILE = "allowed-keys.json"
_PORTS = {"http": 80, "https": 443}


def server_of(base_url: str) -> str:
    """Scheme, host and port of a server: 'https://api.example:443'. Raises DraftbenchError for an invalid address."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise DraftbenchError(f"{base_url!r} is not the address of a server", "", "for example https://api.example/v1")
    return f"{parts.scheme}://[{host}]:{port}" if ":" in host else f"{parts.scheme}://{host}:{port}"


def is_allowed(home: Home, spec: ServerSpec) -> bool:
    """Whether the key was confirmed for every server, or they need none."""
    return not not_allowed(home, spec)


def not_allowed(home: Home, spec: ServerSpec) -> list[str]:
    """The addresses that the key may not be sent to yet."""
    if spec.key_env is None:
        return []
    pairs = _pairs(home)
    return [url for url in spec.urls if [spec.key_env, server_of(url)] not in pairs]


def allow(home: Home, variable: str, base_url: str) -> None:
    """Remember that this variable may be sent to this server.

    Raises DraftbenchError for what is no variable's name, without repeating it: it may be the key itself.
    """
    if not re.fullmatch(KEY_VARIABLE, variable):
        raise DraftbenchError(
            "that is not the name of a variable for a key",
            "a recipe names an environment variable in capital letters; the key itself is never written down",
            "for example `draftbench allow-key OPENAI_API_KEY https://api.openai.com/v1`",
        )
    pair = [variable, server_of(base_url)]
    home.root.mkdir(parents=True, exist_ok=True)
    with FileLock(home.root / ".allowed-keys.lock"):
        pairs = _pairs(home)
        if pair not in pairs:
            text = json.dumps([*pairs, pair], indent=2) + "\n"
            write_atomic(home.root / _FILE, text, mode=0o600)  # nobody else may add a pair or read them


def require_allowed(home: Home, spec: ServerSpec) -> None:
    """Raise DraftbenchError unless every pair was confirmed."""
    for url in not_allowed(home, spec):
        raise DraftbenchError(
            f"{spec.key_env} was never sent to {server_of(url)} before",
            "a recipe by somebody else could name any variable and any server, so each pair is confirmed once",
            f"if you mean it: `draftbench allow-key {spec.key_env} {quote(url)}`",
        )


def _pairs(home: Home) -> list[list[str]]:
    """The confirmed pairs; none where the file is damaged, so that they are asked for again."""
    try:
        pairs = read_json(home.root / _FILE)
    except (OSError, ValueError, RecursionError, DraftbenchError):
        return []
    return [pair for pair in pairs if isinstance(pair, list)] if isinstance(pairs, list) else []
