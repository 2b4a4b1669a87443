"""The documents and questions of bench/qa.py: which sets there are, and where each comes from."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from beside import beside

from atomlora.corpora import sample_path
from atomlora.errors import InputError
from atomlora.golden import read_jsonl
from atomlora.spread import evenly

TRAINED_TITLES = 16  # of squad, by the shipped question writer and reader
COMPLETE = "Complete this sentence: {} ..."
PROBES = {"mem": "memorised", "gen": "paraphrased", "hard_gen": "hard"}
PER_PAGE = 50  # entries of one document of the phone book
PAGES = 8  # documents of it, where nobody says how many
RELATIONS = {"job": "occupation", "dob": "date of birth"}  # as articles write them

Facts = Mapping[tuple[str, str], tuple[int, list[str]]]  # as in bench/router_two_hop.py


class QuestionSet(NamedTuple):
    """A folder of documents and a golden file about them, whose lines may have a "kind"."""

    documents: Path
    golden: Path


def sample_set(_data: Path | None, _work: Path, _documents: int | None) -> QuestionSet:
    """The shipped corpus; it is small, so it is always taken whole."""
    folder = sample_path("kestrin")
    return QuestionSet(folder / "documents", folder / "golden.jsonl")


def tofu_set(data: Path | None, work: Path, documents: int | None) -> QuestionSet:
    """Authors who do not exist; a document is one author's answers joined."""
    authors: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, line in read_jsonl(given(data) / "tofu" / "authors_dev.jsonl"):
        authors[line["author_id"]].append(line)
    chosen = dict(list(authors.items())[:documents])
    articles = [{"id": author, "text": " ".join(line["answer"] for line in lines)} for author, lines in chosen.items()]
    golden = [
        {"question": line["question"], "answer": line["answer"], "source": f"authors.jsonl#{author}"}
        for author, lines in chosen.items()
        for line in lines
    ]
    return write_set(work, "authors.jsonl", articles, golden)


def phantomwiki_set(data: Path | None, work: Path, documents: int | None) -> QuestionSet:
    """Persons who do not exist, and questions that one sentence answers."""
    folder = given(data) / "phantomwiki_seed2"
    articles = [line for _, line in read_jsonl(folder / "articles.jsonl")][:documents]
    sources = {f"articles.jsonl#{article['id']}" for article in articles}
    golden = [line for _, line in read_jsonl(folder / "one_hop.jsonl") if line["source"] in sources]
    return write_set(work, "articles.jsonl", articles, golden)


def squad_set(data: Path | None, work: Path, documents: int | None) -> QuestionSet:
    """Passages that neither the question writer nor the reader was trained on."""
    lines = [line for _, line in read_jsonl(given(data) / "squad" / "dev_titles.jsonl")]
    unseen = list(dict.fromkeys(line["title"] for line in lines))[TRAINED_TITLES:]
    passages = [line for line in lines if line["title"] in unseen and line["questions"]]
    if documents is not None:
        passages = evenly(passages, documents)
    articles = [{name: passage[name] for name in ("id", "title", "text")} for passage in passages]
    golden = [
        {**one, "source": f"passages.jsonl#{passage['id']}"} for passage in passages for one in passage["questions"]
    ]
    return write_set(work, "passages.jsonl", articles, golden)


def fictional_set(data: Path | None, work: Path, documents: int | None) -> QuestionSet:
    """Articles about what never was, and the beginnings of sentences to complete: the article's own, paraphrases of
    them, and ones that take more than a sentence."""
    articles = [line for _, line in read_jsonl(given(data) / "fictional_knowledge" / "dev.jsonl")][:documents]
    golden = [
        {
            "question": COMPLETE.format(probe["prompt"]),
            "answer": probe["answer"],
            "source": f"articles.jsonl#{article['id']}",
            "kind": PROBES[probe["kind"]],
        }
        for article in articles
        for probe in article["probes"]
    ]
    texts = [{name: article[name] for name in ("id", "text")} for article in articles]
    return write_set(work, "articles.jsonl", texts, golden)


def phonebook_set(data: Path | None, work: Path, documents: int | None) -> QuestionSet:
    """The first entries of the phone book of 3,200, a sentence an entry and PER_PAGE entries a document; who has which
    number. Without `documents` the first 400, which are the book of the law's 4,000 tokens."""
    entries = [line for _, line in read_jsonl(given(data) / "phonebook" / "qwen_PB32000.jsonl")]
    book = {line["query"].rstrip(": "): line["target"] for line in entries}  # a name is listed once: the last counts
    names = list(book)[: PER_PAGE * (PAGES if documents is None else documents)]
    pages: dict[str, list[str]] = defaultdict(list)
    golden = []
    for number, name in enumerate(names):
        page = f"page-{number // PER_PAGE + 1}"
        pages[page].append(f"The phone number of {name} is {book[name]}.")
        question = f"What is the phone number of {name}?"
        golden.append({"question": question, "answer": book[name], "source": f"book.jsonl#{page}"})
    articles = [{"id": page, "text": "\n".join(lines)} for page, lines in pages.items()]
    return write_set(work, "book.jsonl", articles, golden)


def hops_set(data: Path | None, work: Path, documents: int | None) -> QuestionSet:
    """Questions of two to four steps about phantomwiki's persons (no counting), and the articles of the persons on
    their way. With `documents`, the questions that the fewest articles answer, as many as these allow."""
    folder = given(data) / "phantomwiki_seed2"
    articles = {line["id"]: line for _, line in read_jsonl(folder / "articles.jsonl")}
    facts = beside("router_two_hop").article_facts([line["text"] for line in articles.values()])
    lines = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
    asked = []
    for line in lines:
        if line["difficulty"] > 1 and not line["is_aggregation_question"] and line["answer"]:
            persons, found = followed(line["prolog"]["query"], facts, list(articles))
            if set(line["answer"]) <= found:
                asked.append((line, persons))
    if documents is not None:
        asked = affordable(asked, documents)
    golden = [
        {
            "question": line["question"],
            "answers_all": line["answer"],
            "sources": [f"articles.jsonl#{person}" for person in sorted(persons)],
            "kind": f"{line['difficulty']} hops",
        }
        for line, persons in sorted(asked, key=lambda pair: pair[0]["difficulty"])
    ]
    used = set().union(*(persons for _, persons in asked))
    chosen = [article for name, article in articles.items() if name in used]
    return write_set(work, "articles.jsonl", chosen, golden)


def followed(query: Sequence[str], facts: Facts, persons: Sequence[str]) -> tuple[set[str], set[str]]:
    """The persons whose articles the steps of a question are read in, the last step (`query[0]`) among them, and what
    is found at its end."""
    stated = beside("router_two_hop").stated
    read: set[str] = set()
    here: list[str] = []
    for number, step in enumerate(reversed(query)):
        name, _, arguments = step.removesuffix(")").partition("(")
        relation = RELATIONS.get(name, name)
        first, second = (one.strip() for one in arguments.split(",", 1))
        if number == 0 and second.startswith('"'):  # job(Y_3, "artist")
            here = [who for who in persons if second.strip('"') in facts.get((relation, who), (0, []))[1]]
            read |= set(here)
            continue
        if number == 0:  # son("Gale Hawes", Y_2)
            here = [first.strip('"')]
        found = [(who, value) for who in here for _, values in stated(relation, who, facts) for value in values]
        read |= {who for who, _ in found}
        here = list(dict.fromkeys(value for _, value in found))
    return read, set(here)


def affordable(
    asked: Sequence[tuple[dict[str, Any], set[str]]], documents: int
) -> list[tuple[dict[str, Any], set[str]]]:
    """One question after the other, always the one that needs the fewest further articles, up to `documents`."""
    left, chosen, used = list(asked), [], set()
    while left:
        cheapest = min(left, key=lambda pair: len(pair[1] - used))
        if len(used | cheapest[1]) > documents:
            break
        left.remove(cheapest)
        chosen.append(cheapest)
        used |= cheapest[1]
    if not chosen:
        raise InputError(f"--documents {documents}: no question of phantomwiki-hops is answered by so few articles")
    return chosen


SETS: dict[str, Callable[[Path | None, Path, int | None], QuestionSet]] = {
    "sample": sample_set,
    "squad": squad_set,
    "tofu": tofu_set,
    "phantomwiki": phantomwiki_set,
    "phantomwiki-hops": hops_set,
    "fictional": fictional_set,
    "phonebook": phonebook_set,
}


def given(data: Path | None) -> Path:
    """The folder of --data; InputError without one."""
    if data is None:
        raise InputError(f"--data is missing: the folder that holds squad/, tofu/ … for the sets {', '.join(SETS)}")
    return data


def kinds(golden: Path) -> dict[str, str]:
    """{question: kind} where the lines of a golden file have kinds."""
    return {line["question"]: line["kind"] for _, line in read_jsonl(golden) if "kind" in line}


def write_set(
    work: Path, name: str, articles: Sequence[dict[str, Any]], golden: Sequence[dict[str, Any]]
) -> QuestionSet:
    """Write a jsonl corpus and its golden file below `work`."""
    found = QuestionSet(work / "documents", work / "golden.jsonl")
    found.documents.mkdir(parents=True, exist_ok=True)
    for path, lines in ((found.documents / name, articles), (found.golden, golden)):
        path.write_text("".join(_lines(lines)), encoding="utf-8")
    return found


def _lines(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(record) + "\n" for record in records)
