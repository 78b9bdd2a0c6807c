"""Prompt groups under the names of SPEED-Bench's categories, so that figures can be set beside other people's.

SPEED-Bench (NVIDIA, 2026) has eleven categories of 80 prompts. A group of the packs and sample prompts belongs to one
of them only where its prompts ask for the same kind of work; a function call is no category there, so these groups keep
their domain's name. The names agree, the prompts do not: its prompts are other ones.
"""

from __future__ import annotations

CATEGORIES = (
    *("coding", "math", "humanities", "stem", "writing", "summarization", "roleplay", "rag", "multilingual"),
    *("reasoning", "qa"),
)
"""SPEED-Bench's categories, in its order."""

_GROUPS: dict[str, str] = {
    # general, sample prompts
    "coding": "coding",
    "maths": "math",
    "history": "humanities",
    "science_everyday": "stem",
    "explanations": "stem",
    "writing": "writing",
    "creative": "writing",
    "business": "writing",
    "summarising": "summarization",
    "advice": "qa",
    "planning": "reasoning",
    "language": "humanities",
    # questions that people asked a search engine: packs of Anserini's topics
    "WebQuestions": "qa",
    "Natural Questions": "qa",
    "Mr. TyDi 1.1": "qa",
    # biology, sample prompts and packs
    **dict.fromkeys(
        (
            *("cell_biology", "genetics", "ecology", "physiology", "evolution", "microbiology", "botany", "zoology"),
            *("biochemistry", "immunology", "neuroscience", "methods"),
        ),
        "stem",
    ),
}


def category_of(group: str, domain: str) -> str:
    """The category of a prompt group: SPEED-Bench's name where it fits, else the domain, or 'other' without one.

    A group that bears the name of a category is of that category. Prompts of the domain `chinese` are multilingual
    whatever they ask, as in SPEED-Bench, where that category is of languages other than English.
    """
    if domain == "chinese":
        return "multilingual"
    if domain == "function_calling":
        return domain
    name = group.strip().lower()
    return name if name in CATEGORIES else _GROUPS.get(group, domain or "other")
