r"""The catalogue: every loss, mode of training and export format, described once and without torch.

The schema, the form, the Learn page, the command line, the checks and the reports read these cards. What computes is
elsewhere and has the same name: a loss in `engine.distill.losses.LOSSES`, a mode in `engine/distill/modes/<name>.py`,
a format in `engine/export/<name>.py`. Tests hold the two sides together; docs/extending.md adds one of each. A rate is
a ratio of counts, so its card says all that is needed to compute it: `engine.measure.definitions.RATES`.

p is the target's distribution, q the draft's. Formulas are LaTeX, texts are Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from engine.errors import DraftbenchError, did_you_mean

Supervision = Literal["white_box", "black_box"]
Proposals = Literal["sampled", "argmax"]
"""How a token is proposed: drawn from q, or always the draft's likeliest. At temperature 0 they are one."""

_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm)\{(.*?)\}")
_SPACE_COMMAND = re.compile(r"\\[,; ]")


@dataclass(frozen=True)
class Card:
    """A method as people read it. `name`: what recipes, tables and commands call it."""

    name: str
    title: str
    text: str
    formula: str = ""
    source: str = ""
    remark: str = ""  # what Draftbench does about it

    @property
    def plain_formula(self) -> str:
        """The formula for a terminal."""
        text = _SPACE_COMMAND.sub(" ", _TEXT_COMMAND.sub(r"\1", self.formula))
        return " ".join(text.replace(r"\|", "||").replace(r"\sim", "~").replace("\\", "").split())


AnyCard = TypeVar("AnyCard", bound=Card)


def _by_name(*cards: AnyCard) -> dict[str, AnyCard]:
    return {card.name: card for card in cards}


# ---- losses ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loss(Card):
    """A loss. `parameter`: the field of a `train.loss` entry that belongs to it alone; its default is in the schema."""

    black_box: bool = False  # needs the target's tokens alone, never its distribution
    parameter: str | None = None
    samples: bool = False  # draws tokens, so each position needs a random number


LOSSES = _by_name(
    Loss(
        "forward_kl",
        "Forward KL",
        "KL(p || q): the draft must cover everything the target may say.",
        r"\sum p (\log p - \log q)",
        "Hinton et al. 2015; the best in arXiv 2503.07807",
    ),
    Loss(
        "reverse_kl",
        "Reverse KL",
        "KL(q || p): the draft must say nothing the target would not.",
        r"\sum q (\log q - \log p)",
        "MiniLLM, arXiv 2306.08543",
    ),
    Loss(
        "jsd",
        "Jensen-Shannon divergence",
        "Generalised Jensen-Shannon divergence with the mixture m = beta p + (1 - beta) q.",
        r"\beta\,\mathrm{KL}(p\|m) + (1 - \beta)\,\mathrm{KL}(q\|m),\ m = \beta p + (1 - \beta) q",
        "GKD, arXiv 2306.13649",
        parameter="beta",
    ),
    Loss(
        "tvd",
        "Total variation",
        "Total variation distance: one minus the acceptance.",
        r"\sum |p - q| / 2 = 1 - \text{acceptance}",
        "DistillSpec, arXiv 2310.08461",
    ),
    Loss(
        "tvd_pp",
        "TVD++",
        "Policy-gradient form of total variation: tokens are drawn from q and rewarded where p(x) > q(x).",
        r"-A\,\log q(x),\ x \sim q,\ A = \text{normalised}\ 1\{p(x) > q(x)\}",
        "arXiv 2403.00858, formula reconstructed",
        samples=True,
    ),
    Loss(
        "neg_log_acceptance",
        "Negative log acceptance",
        "-log sum min(p, q): the likelihood of acceptance itself.",
        r"-\log \sum \min(p, q)",
        "LK losses, arXiv 2602.23881",
    ),
    Loss(
        "lk_hybrid",
        "LK hybrid",
        "Forward KL while acceptance is low, total variation once it is high.",
        r"w\,\mathrm{KL}(p\|q) + (1 - w)\,\text{tvd},\ w = \exp(-\eta\ \text{acceptance})",
        "LK losses, arXiv 2602.23881",
        parameter="eta",
    ),
    Loss(
        "argmax_ce",
        "Argmax cross-entropy",
        "Cross-entropy to the target's likeliest token a, for drafts that propose their own likeliest one: only which "
        "token is first counts there. A hard weight below one blends in forward KL.",
        r"-h\,\log q(a) + (1 - h)\,\mathrm{KL}(p\|q),\ a = \text{argmax}\ p",
        "hard labels of knowledge distillation, arXiv 1503.02531, with the teacher's argmax for the label",
        parameter="hard_weight",
    ),
    Loss(
        "sft",
        "Supervised fine-tuning",
        "-log q(x) of the target's token x: the black-box loss.",
        r"-\log q(x),\ x\ \text{the target's token}",
        "sequence-level KD, arXiv 1606.07947",
        black_box=True,
    ),
)


def check_losses(names: Iterable[str]) -> None:
    """Raise DraftbenchError for a loss that is not in the catalogue, naming the nearest one that is."""
    for name in names:
        if name not in LOSSES:
            raise DraftbenchError(
                f"unknown loss {name!r}", "train.loss names a loss of the catalogue", did_you_mean(name, LOSSES)
            )


def supervision_of(losses: Iterable[str]) -> Supervision:
    """'black_box' if every loss needs the target's text alone, else 'white_box'.

    A loss that this version does not know, of a run made by another one, counts as white-box.
    """
    return "black_box" if all(name in LOSSES and LOSSES[name].black_box for name in losses) else "white_box"


# ---- modes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mode(Card):
    """A mode of training: where the next batch comes from.

    A mode with settings of its own has a section of its name in `engine.config.train.TrainSpec`.
    """

    brief: str = ""  # in a few words, for the help of `train.mode`
    word: str = ""  # how tables call it; the name if empty
    supervision: tuple[Supervision, ...] = ("white_box", "black_box")  # that it can learn under
    note: str = ""  # what the form says of keys elsewhere
    variants: tuple[Card, ...] = ()  # ways to run it, named by the setting that chooses them

    @property
    def called(self) -> str:
        return self.word or self.name


MODES = _by_name(
    Mode(
        "offline",
        "Offline",
        "The target answers every training query once. Its answers are kept with the signal as a capture, and the "
        "draft goes over them several times, in a new order each time. The target works once, whatever is trained "
        "afterwards, and drafts that share a capture learn from the same text. R is the set of all positions of the "
        "answers.",
        r"L = \frac{1}{|R|} \sum_{t \in R} D(p_t, q_t)",
        "sequence distillation as in DistillSpec, arXiv 2310.08461",
        brief="capture once, several shuffled epochs",
    ),
    Mode(
        "online",
        "Online",
        "Queries come as a stream, each once. The current draft proposes, the target judges, and a refused token "
        "shows where the draft was wrong. After every few queries these positions W make a batch; the next queries "
        "are then decoded with the new weights. The text is the target's own throughout: speculation changes who "
        "proposes, not what comes out.",
        r"\begin{gathered} L = \frac{1}{|W|} \sum_{t \in W} D(p_t, q_t) \\[6pt]"
        r"W = \{t : \text{the proposal at } t \text{ was refused}\} \end{gathered}",
        "online speculative decoding (OSD), arXiv 2310.07177",
        brief="a stream of queries, each seen once",
        remark="The loss is taken at the distribution that the refused token was drawn from, one place before the "
        "corrected token in the text. A bonus token answers no proposal, so it is never learnt from. Judged positions "
        "that were accepted can be learnt from too, and a share of earlier answers can be mixed in.",
        note="The stream decides how many steps there are: epochs, batch size and max steps are not used.",
        variants=(
            Card(
                "train.online.stream: replay",
                "Online, from a replayed stream",
                "Decoding a stream costs one pass of the target per round. Where the target's text is captured "
                "already, only the fates are missing, and they can be drawn for it. At a judged position the draft "
                "proposes x with probability q(x) and the target keeps it with min(1, p(x)/q(x)); a refusal is "
                "replaced by a draw from what p has more of than q. So x comes out *accepted* with probability "
                "min(p(x), q(x)) and *corrected* with probability max(0, p(x) - q(x)), together p(x). Given that x "
                "stands in the text, it was accepted with the probability below. Text first and fates after it "
                "therefore have exactly the distribution of a decoded stream, at the price of one pass over the text.",
                r"\begin{aligned} P(\text{accepted} \mid x) &= \frac{\min(p(x),\, q(x))}{p(x)} \\[4pt]"
                r"&= \min\left(1, \frac{q(x)}{p(x)}\right) \end{aligned}",
                "follows from the rule of acceptance, arXiv 2211.17192",
                "Rounds are walked through as in decoding, so bonus tokens stay unjudged, and q is that of the draft "
                "as it was at this place of the stream. In this way runs of different modes can learn from the very "
                "same text.",
            ),
        ),
    ),
    Mode(
        "on_policy",
        "On-policy, sampled",
        "The draft learns on its own text, where it goes astray in its own way. With probability lambda the batch of "
        "a step is written by the draft and scored by the target; otherwise it is the captured one. No gradient runs "
        "through the sampling.",
        r"\begin{aligned} L = {}& (1 - \lambda)\, \mathbb{E}_{y \sim p}\Big[\tfrac{1}{|y|} \sum_t D(p_t, q_t)\Big] \\"
        r"& + \lambda\, \mathbb{E}_{y \sim q}\Big[\tfrac{1}{|y|} \sum_t D(p_t, q_t)\Big] \end{aligned}",
        "GKD, arXiv 2306.13649; DistillSpec, arXiv 2310.08461",
        brief="the draft writes, the target scores",
        word="on-policy",
        supervision=("white_box",),
        variants=(
            Card(
                "train.on_policy.form: assisted",
                "On-policy, assisted",
                "In serving, the draft never goes on for long from its own text: after a block the target has "
                "corrected it. So the draft proposes a block from each of several anchors in the target's text, and "
                "one pass of the target judges it. Tokens before the first refusal n get the loss; the refused one "
                "and those after it get reverse KL, which fades with the distance.",
                r"L = \sum_{i < n} D(p_i, q_i) + \sum_{k \ge 0} 0.8^{\,k}\, \mathrm{KL}(q_{n+k} \,\|\, p_{n+k})",
                "Draft-OPD, arXiv 2605.29343; details reconstructed",
            ),
        ),
    ),
)

SUPERVISION = _by_name(
    Card(
        "white_box",
        "White box",
        "The target's weights are at hand, so at each position the draft sees the probability of *every* token. "
        "One position then teaches as much as many draws from it would.",
        r"L_t = D(p_t, q_t)",
        remark="A server that sends log-probabilities gives a truncated view: its likeliest tokens "
        "(`capture.server.logprobs`), and one bucket with the mass of all others, inside which nothing is learnt. "
        "Every loss works on it; a trimmed vocabulary, a distillation temperature, replayed streams and on-policy "
        "training need the whole distribution.",
    ),
    Card(
        "black_box",
        "Black box",
        "Only the target's text is seen, as when it answers through an API. The draft is trained on the token x of "
        "that text. Averaged over what the target might have written, that is forward KL plus a constant: the same "
        "goal, seen through one draw per position, so it takes more text to learn it.",
        r"\mathbb{E}_{x \sim p}\left[-\log q(x)\right] = \mathrm{KL}(p \,\|\, q) + H(p)",
        "sequence-level distillation; see also arXiv 2310.08461",
        "`capture.server` fetches answers from any OpenAI-compatible server. Its key is read from an environment "
        "variable: the recipe holds that variable's name and never the key.",
    ),
)

SELECTION = Card(
    "train.selection.share",
    "Token selection",
    "Some tokens are beyond a small draft, others it knows already. A reference draft, trained before on everything, "
    "shows the difference: only the share S of positions is kept at which the draft lags most behind it, and the sum "
    "is divided by the number kept.",
    r"\begin{gathered} L = \frac{1}{|S|} \sum_{t \in S} D(p_t, q_t) \\[6pt]"
    r"S = \text{the largest } D(p_t, q_t) - D(p_t, q^{\text{ref}}_t) \end{gathered}",
    "AdaSPEC, arXiv 2510.19779",
)

LORA = Card(
    "draft.lora",
    "A draft for each fine-tune",
    "A target with many fine-tunes needs a draft for each of them, and these drafts are mostly the same. So one draft "
    "is shared, and for each fine-tune an adapter is trained on it: every adapted weight W of the shared draft gets "
    "an update of low rank r. A and B alone are trained and kept, by every loss and mode; embeddings and output head "
    "stay as they are.",
    r"W' = W + \frac{\alpha}{r}\, B A,\ A \in \mathbb{R}^{r \times n},\ B \in \mathbb{R}^{m \times r}",
    "LoRA, arXiv 2106.09685",
    "A run keeps the adapter, the hash of the shared draft, and that draft by a link to the file that is there "
    "already. What is measured, decoded and exported is the merged draft, which must give the logits of the two apart.",
)

# ---- export formats -------------------------------------------------------------------------


@dataclass(frozen=True)
class Format(Card):
    """A format of an exported draft. `precisions`: how its weights can be rounded, its default first."""

    precisions: tuple[str, ...] = ()


EXPORTERS = _by_name(
    Format(
        "huggingface",
        "Hugging Face folder",
        "Config, all weights as safetensors, tokenizer, generation settings and a model card: what Transformers, vLLM "
        "and other engines load.",
        source="https://huggingface.co/docs/transformers",
    ),
    Format(
        "gguf",
        "GGUF file",
        "Settings, weights, tokenizer and chat template in one file: what llama.cpp and LM Studio load.",
        source="https://github.com/ggml-org/ggml/blob/master/docs/gguf.md",
        precisions=("f16", "q8_0", "q4_k_m", "bf16", "f32"),
    ),
)
DEFAULT_FORMAT = "huggingface"

RATE_OF: dict[Proposals, str] = {"sampled": "exact", "argmax": "argmax"}
"""The rate on the target's own text that is expected of a judged token under each way to propose."""

# ---- servers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server(Card):
    """An engine that serves a draft.

    `proposals`: the rules that it can propose by, its default first. `weights`: the export format (a name of EXPORTERS)
    that it loads. `acceptance`: what it calls accepted over proposed tokens. `exported`: `export --for` makes
    an export and a start command for it.
    """

    proposals: tuple[Proposals, ...] = ("argmax",)
    weights: str = "huggingface"
    acceptance: str = ""
    exported: bool = True

    @property
    def rates(self) -> tuple[str, ...]:
        """The rates that what it reports comes from, that of its default first."""
        return tuple(RATE_OF[rule] for rule in self.proposals)

    @property
    def reports(self) -> str:
        """Which rate it will report, by name: 'argmax (exact with sampled proposals)'."""
        others = [f"{RATE_OF[rule]} with {rule} proposals" for rule in self.proposals[1:]]
        return self.rates[0] + (f" ({'; '.join(others)})" if others else "")


SERVERS_NOTE = (
    "A server reports accepted over proposed tokens of its own rounds: for each judged token the rate named here is "
    "expected, and less of the proposed ones as gamma grows, since what follows a refusal is never judged."
)

SERVERS = _by_name(
    Server(
        "transformers",
        "Transformers",
        "`generate(assistant_model=...)`, one prompt at a time.",
        source="https://huggingface.co/docs/transformers/generation_strategies",
        proposals=("sampled",),
    ),
    Server(
        "vllm",
        "vLLM",
        "Proposes the draft's likeliest token also above temperature 0, unless `draft_sample_method` is "
        "`probabilistic`.",
        source="https://docs.vllm.ai/en/latest/features/spec_decode.html",
        proposals=("argmax", "sampled"),
        acceptance="draft acceptance rate",
    ),
    Server(
        "sglang",
        "SGLang",
        "The algorithm STANDALONE with one branch; proposes the draft's likeliest token.",
        source="https://docs.sglang.ai/advanced_features/speculative_decoding.html",
        acceptance="accept rate",
    ),
    Server(
        "llama.cpp",
        "llama.cpp",
        "`llama-server` with a draft in GGUF; keeps a proposal where it is the token that the target drew.",
        source="https://github.com/ggml-org/llama.cpp/tree/master/tools/server",
        weights="gguf",
        acceptance="draft acceptance",
    ),
    Server(
        "tensorrt-llm",
        "TensorRT-LLM",
        "`DraftTargetDecodingConfig`; proposes the draft's likeliest token.",
        source="https://nvidia.github.io/TensorRT-LLM/features/speculative-decoding.html",
        acceptance="acceptance rate",
    ),
    Server(
        "lm-studio",
        "LM Studio",
        "Serves GGUF models with a draft that the request names.",
        source="https://lmstudio.ai/docs/app/advanced/speculative-decoding",
        weights="gguf",
        acceptance="accepted draft tokens",
        exported=False,  # it has no command line for a draft: the app and each request name one
    ),
)


def servers_by_rate() -> dict[str, list[str]]:
    """Rate -> the servers whose figures come from it: by default, or with the other proposals that are named."""
    by_rate: dict[str, list[str]] = {"argmax": [], "exact": []}
    for server in SERVERS.values():
        for place, (rule, rate) in enumerate(zip(server.proposals, server.rates, strict=True)):
            by_rate[rate].append(server.title + (f" with {rule} proposals" if place else ""))
    return by_rate
