"""How the target, or a server in its place, answers the training prompts, and how much of its distribution is kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from engine.config.section import MOST_TOKENS, PACE, TEMPERATURE, Mark, Section, used_unless

KEY_VARIABLE = r"^[A-Z_][A-Z0-9_]*$"  # capitals only: a key put in its place by mistake is no such name
Url = Annotated[str, Field(pattern=r"^https?://")]


class ServerSpec(Section):
    """An OpenAI-compatible server that answers in the target's stead: its text, and perhaps its likeliest tokens, are
    all that is seen of the target. `base_url` also takes a list: its first address, with the others in `also_at`."""

    base_url: str = Field(
        pattern=r"^https?://",
        title="Address of the server",
        description="where the server's API begins, such as http://127.0.0.1:8000/v1",
    )
    # No part of a capture's address: the first server names it, and those that share the load must serve the same.
    also_at: Annotated[list[Url], PACE] = Field(
        [],
        max_length=256,
        title="More addresses",
        description="more addresses that serve the same model and share the load",
    )
    model: str = Field(min_length=1, title="Model on the server", description="name of the model there")
    # Without effect where it is empty, as in recipes from before it was there.
    logprobs: Annotated[int | None, Mark(used=lambda server: server.get("logprobs") is not None)] = Field(
        None,
        ge=1,
        le=4096,
        title="Likeliest tokens per position",
        description="likeliest tokens to ask for at each position, which capture.signal compact keeps: at most 20 on "
        "most servers (vLLM: unless started with --max-logprobs)",
    )
    key_env: Annotated[str | None, PACE] = Field(
        None,
        pattern=KEY_VARIABLE,
        title="Variable that holds the key",
        description="environment variable, in capital letters, that holds the key; its value is never written anywhere",
    )
    concurrency: Annotated[int, PACE] = Field(
        4, ge=1, le=256, title="Requests at once", description="requests in flight at once, at each address"
    )
    requests_per_minute: Annotated[int | None, PACE] = Field(
        None,
        ge=1,
        le=1_000_000,
        title="Requests per minute, at most",
        description="maximum requests per minute to each address; no limit if empty",
    )
    timeout_s: Annotated[float, PACE] = Field(
        120.0, gt=0, le=86_400, title="Longest wait, seconds", description="seconds to wait for an answer"
    )
    attempts: Annotated[int, PACE] = Field(
        6, ge=1, le=50, title="Tries per request", description="tries of a request before it counts as failed"
    )

    @property
    def urls(self) -> list[str]:
        """Every address, the first one first."""
        return [self.base_url, *self.also_at]

    @property
    def each(self) -> list[ServerSpec]:
        """The same settings for each address alone."""
        return [self.model_copy(update={"base_url": url, "also_at": []}) for url in self.urls]

    @model_validator(mode="before")
    @classmethod
    def _one_or_many_addresses(cls, values: Any) -> Any:
        if not (isinstance(values, dict) and isinstance(values.get("base_url"), list)):
            return values
        if values.get("also_at"):
            raise ValueError("base_url is a list already: put the addresses of also_at there")
        if not values["base_url"]:
            raise ValueError("base_url is an empty list: name the address of a server")
        first, *others = values["base_url"]
        return {**values, "base_url": first, "also_at": others}

    @model_validator(mode="after")
    def _addresses_are_fit(self) -> ServerSpec:
        if any(mark in url for url in self.urls for mark in "@?#"):
            raise ValueError(
                "base_url must not hold a user, a password or a query, since recipes are kept with runs: "
                "put the key into an environment variable and its name into key_env"
            )
        if len({url.rstrip("/") for url in self.urls}) < len(self.urls):
            raise ValueError("an address is named twice in base_url and also_at: each server has one")
        return self


_SIDE_BY_SIDE = 64  # rows where `auto` must mean the same on every machine
BatchSize = Annotated[int, Field(ge=1)] | Literal["auto"]


class CaptureSpec(Section):
    """How the target answers the training prompts and what of its distribution is kept."""

    temperature: Annotated[float, TEMPERATURE] = Field(
        1.0, ge=0, le=10, title="Temperature of the answers", description="0 is greedy"
    )
    top_p: float = Field(1.0, gt=0, le=1, title="Top-p", description="nucleus; 1 is off")
    top_k: int = Field(0, ge=0, le=MOST_TOKENS, title="Top-k", description="0 is off")
    max_new_tokens: int = Field(
        160, ge=1, le=MOST_TOKENS, title="Longest answer, tokens", description="length limit of an answer, tokens"
    )
    seed: Annotated[int, used_unless("temperature", 0)] = Field(
        0, ge=0, title="Seed of the answers", description="seed of the answers"
    )
    batch_size: Annotated[BatchSize, PACE] = Field(
        "auto",
        title="Prompts at once",
        description="prompts answered together; auto: as many as the memory holds and as pay on the device",
    )
    signal: Literal["exact", "compact", "none"] = Field(
        "exact",
        title="Kept of the target's distribution",
        description="exact: last hidden state; compact: top-k log-probabilities and the tail's mass; none: text only",
    )
    signal_top_k: Annotated[
        int, Mark(used=lambda capture: capture.get("signal") == "compact" and not capture.get("server"))
    ] = Field(
        64,
        ge=1,
        le=4096,
        title="Likeliest tokens per position",
        description="log-probabilities per token in the compact signal; a server's: capture.server.logprobs",
    )
    server: Annotated[ServerSpec | None, Mark(by_hand=True, used=lambda capture: bool(capture.get("server")))] = Field(
        None, description="fetch the training answers from this server; needs signal: none, or compact with logprobs"
    )

    @property
    def side_by_side(self) -> int:
        """Rows of a batch that is decoded during training, which must be the same again after a kill."""
        return _SIDE_BY_SIDE if self.batch_size == "auto" else self.batch_size


def truncation(capture: CaptureSpec) -> str:
    """In words, what of the target's distribution a compact signal holds; "" for the other signals."""
    if capture.signal != "compact":
        return ""
    kept = f"{capture.signal_top_k} likeliest tokens" if capture.server is None else ""
    if capture.server is not None:
        kept = f"{capture.server.logprobs} likeliest tokens that the server sends"
    return f"on the {kept} and one bucket for the rest"
