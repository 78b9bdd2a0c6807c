"""The forms of figures that can be read, recognised by what is in a file and not by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.deploy.readers import aiperf, llama_cpp, lm_studio, prometheus, sglang, tensorrt_llm, vllm, vllm_bench
from engine.deploy.readers.documents import MOST_RECORDS, Document, read_document
from engine.deploy.readers.reading import Located, Reading, brief, choices, contradiction, foreign, part, refused, words
from engine.errors import did_you_mean
from engine.served.token_counts import FAR_OFF, far_from_text, impossible

_MOST_FILES = 1_000
_TWICE = "counted twice, the same answers would look like more evidence than there is"


@dataclass(frozen=True)
class Form:
    """A form. `claims`, `read`: of JSON objects; None for a form that is text."""

    name: str
    title: str
    claims: Callable[[Mapping[str, Any]], bool] | None = None
    read: Callable[[Sequence[Located]], Reading] | None = None


FORMS = {
    form.name: form
    for form in (
        Form("vllm", "vLLM's answers with metrics.speculative_decoding", vllm.claims, vllm.read),
        Form("vllm-bench", "the result of vllm bench serve", vllm_bench.claims, vllm_bench.read),
        Form("prometheus", "one or two scrapes of /metrics"),
        Form("sglang", "SGLang's answers with meta_info", sglang.claims, sglang.read),
        Form("llama.cpp", "llama-server's answers with timings, or its log", llama_cpp.claims, llama_cpp.read),
        Form("tensorrt-llm", "TensorRT-LLM's iterations or answers", tensorrt_llm.claims, tensorrt_llm.read),
        Form("lm-studio", "LM Studio's answers with stats", lm_studio.claims, lm_studio.read),
        Form("aiperf", "AIPerf's profile_export.jsonl", aiperf.claims, aiperf.read),
    )
}


def read_files(
    paths: Sequence[Path], form: str | None = None, model: str | None = None
) -> tuple[Reading, str, list[Document]]:
    """The figures in some files of one form, the form's name, and the files.

    Of Prometheus text the first file is the scrape before, the second the one after. `form`: its name, where it cannot
    be recognised. `model`: the one that is meant, where a server has several. Raises DraftbenchError.
    """
    if form is not None and form not in FORMS:
        raise refused(f"unknown form {form!r}", "--from names a form", did_you_mean(form, FORMS))
    if not 0 < len(paths) <= _MOST_FILES:
        raise refused(f"{len(paths)} files", f"1 to {_MOST_FILES:,} can be read at once", "give some of them")
    documents = [read_document(path) for path in paths]
    reading, name = read_documents(documents, form, model)
    return reading, name, documents


def read_documents(
    documents: Sequence[Document], form: str | None = None, model: str | None = None
) -> tuple[Reading, str]:
    """As `read_files`, of documents that were read already."""
    texts = [item for item in documents if item.objects is None]
    if texts and len(texts) < len(documents):
        raise refused(
            f"{texts[0].name} is text, {next(d.name for d in documents if d.objects is not None)} is JSON",
            "all files of one import must have the same form",
            "import them one by one",
        )
    if texts:
        with foreign(texts[0].name):
            return _of_text(documents, form, model)
    _refuse_same_files(documents)
    values = [located for item in documents for located in item.objects or []]
    if len(values) > MOST_RECORDS:
        raise refused(f"{len(values):,} records", f"at most {MOST_RECORDS:,} are read", "give some of the files")
    with foreign(documents[0].name):
        chosen = _recognised(values, form)
        assert chosen.claims is not None
        assert chosen.read is not None
        values = _ended(values, chosen.claims)
        answers = [located for located in values if chosen.claims(located.value)]
        _refuse_same_answers(answers)
        return _beside_text(chosen.read(values), answers), chosen.name


def _refuse_same_files(documents: Sequence[Document]) -> None:
    """Raise DraftbenchError for two files of the same content."""
    seen: dict[bytes, str] = {}
    for item in documents:
        if item.raw in seen:
            what = f"{item.name} has the same content as {seen[item.raw]}"
            raise refused(what, _TWICE, "give each file once")
        seen[item.raw] = item.name


def _refuse_same_answers(values: Sequence[Located]) -> None:
    """Raise DraftbenchError for two answers of one id; only those with figures, since pieces of a stream share one."""
    seen: dict[str, str] = {}
    for value, where in values:
        name = _id_of(value)
        if name is None:
            continue
        if name in seen:
            raise refused(
                f"{where} has the id of {seen[name]}: {brief(name)}",
                _TWICE,
                "give each answer once, of a streamed one its last piece; if the server gives all answers one id, "
                "take the ids out",
            )
        seen[name] = where


def _id_of(answer: Mapping[str, Any]) -> str | None:
    return (
        words(answer, "id") or words(part(answer, "meta_info"), "id") or words(part(answer, "metadata"), "x_request_id")
    )


def _ended(values: Sequence[Located], claims: Callable[[Mapping[str, Any]], bool]) -> list[Located]:
    """The values without the earlier pieces of streamed answers, in which some servers count all tokens so far.

    Raises DraftbenchError for an answer whose last piece is missing.
    """
    with_figures = {_id_of(value) for value, _ in values if claims(value)} - {None}
    ended, open_at = [], dict[str | None, str]()
    for value, where in values:
        name, counts = _id_of(value), claims(value)
        if counts and _goes_on(value):
            open_at[name] = where
        elif counts or name not in with_figures:
            open_at.pop(name, None)
            ended.append(Located(value, where))
    for where in open_at.values():
        raise refused(
            f"{where} is the last piece here of a streamed answer that continues",
            "the stream is torn there: figures of a part would look like all",
            "take the whole stream, or leave this answer out",
        )
    return ended


def _goes_on(answer: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a piece of a streamed answer, and not its last one: nothing says why it ended."""
    reasons = [choice["finish_reason"] for choice in choices(answer) if "finish_reason" in choice]
    meta = part(answer, "meta_info")
    reasons += [meta["finish_reason"]] if "finish_reason" in meta else []
    return answer.get("stop") is False or (bool(reasons) and all(reason is None for reason in reasons))


def _beside_text(reading: Reading, answers: Sequence[Located]) -> Reading:
    """The reading, after comparing each answer's count of tokens with its text, where the answer holds one."""
    if len(reading.per_request) != len(answers):
        return reading
    far = 0
    for (value, where), request in zip(answers, reading.per_request, strict=True):
        size = len(_text(value).encode("utf-8", "replace"))
        if impossible(request.emitted, has_answer=size > 0, allowed=None):
            raise contradiction(where, f"{request.emitted} tokens are counted", f"{size:,} bytes of text were written")
        far += far_from_text(request.emitted, size)
    if not far:
        return reading
    note = f"in {far:,} of {len(answers):,} answers: {FAR_OFF}; the speed is by its count"
    return replace(reading, notes=(*reading.notes, note))


def _text(answer: Mapping[str, Any]) -> str:
    """The text of an answer of any server; "" where it has none, as the last piece of a stream."""
    parts = [answer.get("text"), *(part(choice, "message").get("content") for choice in choices(answer))]
    return "".join(text for text in parts if isinstance(text, str))


def _of_text(documents: Sequence[Document], form: str | None, model: str | None) -> tuple[Reading, str]:
    first = documents[0]
    is_log = llama_cpp.claims_text(first.text)
    is_metrics = prometheus.claims_text(first.text)
    if form == "prometheus" or (form is None and is_metrics and not is_log):
        if len(documents) > 2:
            raise refused(
                f"{len(documents)} scrapes", "two are compared: before and after", "give the first and the last"
            )
        before = documents[0] if len(documents) == 2 else None
        after = documents[-1]
        return (
            prometheus.read(
                after.text, after.name, before.text if before else None, before.name if before else "", model
            ),
            "prometheus",
        )
    if form == "llama.cpp" or (form is None and is_log and not is_metrics):
        if len(documents) > 1:
            raise refused(f"{len(documents)} logs", "task numbers start again in each", "import them one by one")
        if not is_log:
            raise refused(
                f"{first.name} has no line `draft acceptance = ...`",
                "llama-server writes one for each answer in which it proposed something",
                "start it with a draft: -md DRAFT.gguf --spec-type draft-simple",
            )
        return llama_cpp.read_text(first.text, first.name), "llama.cpp"
    if is_log and is_metrics:
        raise refused(
            f"{first.name} is a log and a scrape at once", "", "name its form: --from llama.cpp or prometheus"
        )
    raise _unknown(first.name)


def _recognised(values: Sequence[Located], form: str | None) -> Form:
    """The one form that some of the objects are of."""
    fitting = [
        candidate for candidate in FORMS.values() if candidate.claims and any(candidate.claims(v.value) for v in values)
    ]
    if form is not None:
        if FORMS[form] not in fitting:
            others = f"; it looks like {', '.join(other.name for other in fitting)}" if fitting else ""
            raise refused(
                f"{values[0].where} has nothing of the form {form} ({FORMS[form].title}){others}",
                "its figures are missing, or of another version of the server",
                "leave --from out, or take the figures again",
            )
        return FORMS[form]
    if len(fitting) > 1:
        raise refused(
            f"{values[0].where} can be read as {' or '.join(other.name for other in fitting)}",
            "they count differently",
            f"name the form: --from {fitting[0].name}",
        )
    if not fitting:
        raise _unknown(values[0].where)
    return fitting[0]


def _unknown(where: str) -> Exception:
    forms = "; ".join(f"{form.name}: {form.title}" for form in FORMS.values())
    return refused(
        f"{where} has no figures of speculation that are known here",
        "the server did not speculate or report it, or a newer version of it reports it otherwise",
        forms,
    )
