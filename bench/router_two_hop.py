"""Two-step questions of PhantomWiki for bench/router.py, and the atoms that state their last step.

"Who is the sibling of the friend of Walter Hope?": the right atoms are those that name a brother or sister of one of
his friends. Steps are followed through the articles' own sentences, "The R of X is Y, Z."; questions of another shape,
or whose last step no article states, are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_FACT = re.compile(r"The (.+?) of (.+?) (?:is|are) (.+)\.$")
_WHO = re.compile(r"(?:Who|What) is the (.+?) of the (.+)$")
_HOW_MANY = re.compile(r"How many (.+?) does the (.+) have$")
_ATTRIBUTE = re.compile(r"person whose (.+?) is (.+)$")
_RELATION = re.compile(r"(\w+) of (.+)$")
SINGULAR = {"wives": "wife", "children": "child"}
KIN = {"sibling": ("brother", "sister"), "child": ("son", "daughter"), "parent": ("mother", "father")}
Facts = Mapping[tuple[str, str], tuple[int, list[str]]]
"""(relation, of whom): the atom that states it, and the values."""


def two_step_questions(folder: Path, texts: Sequence[str]) -> list[tuple[str, frozenset[int]]]:
    """Questions of difficulty 2 with the numbers of the right ones among the atoms' `texts`."""
    lines: list[dict[str, Any]] = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    facts = article_facts(texts)
    asked = []
    for line in lines:
        if line["difficulty"] == 2 and (right := last_step(line["question"], facts)):
            asked.append((line["question"], right))
    return asked


def article_facts(texts: Sequence[str]) -> dict[tuple[str, str], tuple[int, list[str]]]:
    """What the sentences of `texts` state, one on a line; the number of the text with each."""
    facts: dict[tuple[str, str], tuple[int, list[str]]] = {}
    for number, text in enumerate(texts):
        for line in text.splitlines():
            if found := _FACT.match(line):
                values = [value.strip() for value in found[3].split(",")]
                facts[singular(found[1]), found[2]] = (number, values)
    return facts


def last_step(question: str, facts: Facts) -> frozenset[int]:
    """The atoms that state the last step of a question; none where it is of another shape."""
    text = question.rstrip("?").strip()
    outer = _WHO.match(text) or _HOW_MANY.match(text)
    if outer is None:
        return frozenset()
    if attribute := _ATTRIBUTE.match(outer[2]):
        between = [who for (name, who), (_, values) in facts.items() if name == attribute[1] and attribute[2] in values]
    elif relation := _RELATION.match(outer[2]):
        between = [who for _, values in stated(relation[1], relation[2], facts) for who in values]
    else:
        return frozenset()
    return frozenset(number for who in between for number, _ in stated(outer[1], who, facts))


def stated(relation: str, who: str, facts: Facts) -> list[tuple[int, list[str]]]:
    """What the articles state of a relation, which may be one of several."""
    name = singular(relation)
    return [facts[one, who] for one in KIN.get(name, (name,)) if (one, who) in facts]


def singular(relation: str) -> str:
    """The relation's name of one."""
    return SINGULAR.get(relation, relation.removesuffix("s"))
