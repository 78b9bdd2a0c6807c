"""Would the server take this pair? Its own rules, applied before any weights are loaded or copied.

"refused": the server stops, or it would serve other text or next to no speed. "warning": it serves, and otherwise than
was measured.
"""

from __future__ import annotations

from engine.catalogue import SERVERS, Server
from engine.errors import DraftbenchError, did_you_mean
from engine.export.facts import Asked, Pair
from engine.export.finding import Finding, Findings
from engine.export.server_rules import RULES

__all__ = ["EXPORTED_FOR", "Finding", "preflight", "refuse", "server_card"]

EXPORTED_FOR = tuple(name for name, card in SERVERS.items() if card.exported)


def server_card(name: str) -> Server:
    """The server of that name. Raises DraftbenchError for one that nothing is exported for."""
    if name not in EXPORTED_FOR:
        raise DraftbenchError(
            f"unknown server {name!r}", "an export is made for a server", did_you_mean(name, EXPORTED_FOR)
        )
    return SERVERS[name]


def preflight(server: str, pair: Pair, asked: Asked) -> list[Finding]:
    """What keeps the server from serving the pair as it was measured, refusals first."""
    card = server_card(server)
    findings = [*_asked_of(card, pair, asked), *RULES[server](pair, asked), *_both(card, pair)]
    return sorted(findings, key=lambda finding: finding.level != "refused")


def refuse(server: str, findings: list[Finding]) -> None:
    """Raise DraftbenchError if the server would refuse the pair, with all of its reasons."""
    refused = [finding for finding in findings if finding.level == "refused"]
    if refused:
        raise DraftbenchError(
            f"{SERVERS[server].title} would not serve this pair: " + "; ".join(f.what for f in refused),
            " | ".join(dict.fromkeys(finding.reason for finding in refused)),
            "; ".join(dict.fromkeys(finding.fix for finding in refused)),
        )


# ---- what every server asks -----------------------------------------------------------------


def _asked_of(card: Server, pair: Pair, asked: Asked) -> Findings:
    if asked.gamma < 1:
        yield Finding(
            "refused",
            f"gamma is {asked.gamma}",
            f"Expected num_speculative_tokens to be greater than zero ({asked.gamma})."
            if card.name == "vllm"
            else "a round proposes at least one token",
            "give --gamma 1 or more",
        )
    if asked.proposals is not None and asked.proposals not in card.proposals:
        yield Finding(
            "refused",
            f"{card.title} has no {asked.proposals} proposals",
            f"it proposes by {' or '.join(card.proposals)} alone",
            f"leave --proposals out: it is {card.proposals[0]}",
        )
    longest = pair.target.context_tokens
    if asked.context_tokens is not None and longest is not None and asked.context_tokens > longest:
        yield Finding(
            "refused",
            f"a context of {asked.context_tokens:,} tokens is asked for, the target has {longest:,}",
            f"User-specified max_model_len ({asked.context_tokens}) is greater than the derived max_model_len "
            f"(max_position_embeddings={longest})"
            if card.name == "vllm"
            else "the target was not made for positions beyond",
            f"give --context {longest} or less",
        )
    if asked.target == "apart" and pair.target.adapter_rank is None:
        yield Finding(
            "refused",
            "the target has no adapter to put beside it",
            "it is one model already",
            "leave --target out, or give --target merged for a copy of it",
        )


def _both(card: Server, pair: Pair) -> Findings:
    for role, model in (("target", pair.target), ("draft", pair.draft)):
        if model.encoder_decoder:
            yield Finding(
                "refused",
                f"the {role} is an encoder-decoder",
                "a draft model and its target are decoders",
                "use a causal language model",
            )
        if model.own_code and card.name not in ("llama.cpp", "tensorrt-llm"):
            yield Finding(
                "warning",
                f"the {role} needs Python code that comes with it",
                "Please pass the argument `trust_remote_code=True` to allow custom code to be run.",
                "add --trust-remote-code to the command if you trust that code",
            )
    if pair.target.quantised == "int8" and card.name != "transformers":
        yield Finding(
            "warning",
            "the run's target has weights rounded to int8 by Draftbench",
            f"{card.title} loads the model as it was published, which answers a little differently",
            "expect the acceptance to differ, or measure without target.quantize",
        )
    if pair.target.dtype != pair.draft.dtype:
        yield Finding(
            "warning",
            f"the target is {pair.target.dtype}, the draft {pair.draft.dtype}",
            "the server computes both in the target's dtype, so the draft's weights are rounded again",
            f"export a draft of a run with target.dtype: {pair.target.dtype}",
        )
