"""The question sets of bench/router.py: atoms, the keys that find them, and questions of which the right atoms are
known.

An atom is right when it holds the answer and comes from the passage (or document) that the question was asked about.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from beside import beside

from atomlora.atom import Atom, Provenance, TrainRecord, digest_json
from atomlora.corpora import Document, read_corpus, sample_path, split_document
from atomlora.golden import GoldenQuestion, load_golden, read_jsonl
from atomlora.metrics import contains
from atomlora.questions import writer_for
from atomlora.questions.types import AtomText, Question
from atomlora.router import Embedder
from atomlora.runtime.keys import store_documents, store_keys
from atomlora.spread import evenly
from atomlora.store import Store

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


SQUAD_TITLES = slice(16, 24)
ALL_TITLES = slice(0, 24)
BATCH = 512  # texts embedded between two looks at the clock


class Asked(NamedTuple):
    """A question, the numbers of the atoms that answer it, and those of the passages that they come from."""

    question: str
    atoms: frozenset[int]
    passages: frozenset[int]


class RoutingSet(NamedTuple):
    """What is routed. `passage_of`: the passage of each atom; `passages`: their texts; keys as `store_keys` has them,
    with their embeddings."""

    name: str
    atoms: list[Atom]
    passages: list[str]
    passage_of: np.ndarray
    keys: list[tuple[int, str]]
    embeddings: np.ndarray
    documents: list[str]
    asked: list[Asked]


class Inputs(NamedTuple):
    """What sets are made from."""

    data: Path | None
    store: Path | None
    work: Path
    embedder: Embedder
    limit: int
    written: int


two_step_questions = beside("router_two_hop").two_step_questions


def sample_set(inputs: Inputs) -> RoutingSet:
    """The sample corpus as --store holds it, its generated questions among the keys; people's golden questions."""
    assert inputs.store is not None
    with Store.open(inputs.store) as store:
        atoms = [atom for atom in store.atoms() if atom.mount == "routed"]
    golden = load_golden(sample_path("kestrin") / "golden.jsonl", None)
    return routing_set("sample", inputs, atoms, golden)


def squad_texts_set(inputs: Inputs) -> RoutingSet:
    """The same sentences without a generated question among the keys, and people's questions about all of them."""
    return squad_set(inputs, "squad-texts", written=0)


def squad_set(
    inputs: Inputs,
    name: str = "squad",
    titles: slice = SQUAD_TITLES,
    written: int | None = None,
    about: slice = slice(None),
) -> RoutingSet:
    """Articles of SQuAD's development set by sentence. The first passages of each (`--written`) have questions of the
    shipped writer as keys, and people's questions about these are asked; the others are there to be mistaken. `about`:
    the titles that questions are asked about."""
    assert inputs.data is not None
    lines = [line for _, line in read_jsonl(inputs.data / "squad" / "dev_titles.jsonl")]
    every = list(dict.fromkeys(line["title"] for line in lines))
    by_title = {title: [line for line in lines if line["title"] == title] for title in every[titles]}
    written = inputs.written if written is None else written
    chosen = {line["id"] for some in by_title.values() for line in some[:written]}
    folder = inputs.work / corpus_of(name)
    articles = [
        {"id": line["id"], "title": line["title"], "text": line["text"]} for some in by_title.values() for line in some
    ]
    atoms = split_atoms(folder, "squad.jsonl", articles)
    golden = [
        GoldenQuestion(question=one["question"], golden=(one["answer"],), sources=(f"squad.jsonl#{line['id']}",))
        for title, some in by_title.items()
        for line in some
        if (line["id"] in chosen or not written) and title in every[about]
        for one in line["questions"]
    ]
    mine = [n for n, atom in enumerate(atoms) if atom.provenances[0].source.split("#")[1] in chosen]
    for number, questions in zip(mine, written_questions([atoms[n] for n in mine], folder), strict=True):
        atoms[number] = atoms[number].model_copy(update={"questions": questions})
    return routing_set(name, inputs, atoms, golden)


def tofu_set(inputs: Inputs) -> RoutingSet:
    """Authors who do not exist, one document of all their answers each; no generated questions. What holds a sentence
    of the answer is right."""
    assert inputs.data is not None
    authors: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, line in read_jsonl(inputs.data / "tofu" / "authors_dev.jsonl"):
        authors[line["author_id"]].append(line)
    articles = [{"id": author, "text": " ".join(line["answer"] for line in some)} for author, some in authors.items()]
    atoms = split_atoms(inputs.work / "tofu", "tofu.jsonl", articles)
    golden = [
        GoldenQuestion(
            question=line["question"],
            golden=tuple(one for one in _SENTENCE_END.split(line["answer"]) if len(one.split()) > 3),
            sources=(f"tofu.jsonl#{author}",),
        )
        for author, some in authors.items()
        for line in some
    ]
    return routing_set("tofu", inputs, atoms, golden)


def phantomwiki_set(inputs: Inputs) -> RoutingSet:
    """Persons who do not exist, and questions that one sentence answers; no generated questions."""
    assert inputs.data is not None
    folder = inputs.data / "phantomwiki_seed2"
    articles = [line for _, line in read_jsonl(folder / "articles.jsonl")]
    atoms = split_atoms(inputs.work / "phantomwiki", "articles.jsonl", articles)
    return routing_set("phantomwiki", inputs, atoms, load_golden(folder / "one_hop.jsonl", None))


def two_step_set(inputs: Inputs) -> RoutingSet:
    """The same persons, and questions that need a second atom to find the one that answers."""
    found = phantomwiki_set(inputs)
    folder = (inputs.data or Path()) / "phantomwiki_seed2"
    asked = [
        Asked(question, right, frozenset(int(found.passage_of[n]) for n in right))
        for question, right in two_step_questions(folder, [atom.text for atom in found.atoms])
    ]
    return found._replace(name="two-step", asked=asked)


SETS = {
    "sample": sample_set,
    "squad": squad_set,
    "squad-texts": squad_texts_set,
    # all 24 titles, of which the shipped writer was trained on the first sixteen: those that it has not seen apart
    "squad-all": partial(squad_set, name="squad-all", titles=ALL_TITLES),
    "squad-all-unseen": partial(squad_set, name="squad-all-unseen", titles=ALL_TITLES, about=SQUAD_TITLES),
    "squad-all-texts": partial(squad_set, name="squad-all-texts", titles=ALL_TITLES, written=0),
    "tofu": tofu_set,
    "phantomwiki": phantomwiki_set,
    "two-step": two_step_set,
}


def foreign_questions(data: Path, sets: Sequence[RoutingSet], own: str) -> list[str]:
    """Questions that a set does not cover: half about the real world, half about the other sets."""
    real = [line["question"] for _, line in read_jsonl(data / "locality" / "real_facts_dev.jsonl")]
    same = corpus_of(own).removesuffix("-all")
    others = [
        one.question for found in sets if corpus_of(found.name).removesuffix("-all") != same for one in found.asked
    ]
    random = np.random.default_rng(0)
    count = min(len(real), len(others)) if others else len(real)
    picked = [others[n] for n in random.permutation(len(others))[:count]]
    return [*(real[n] for n in random.permutation(len(real))[:count]), *picked]


def corpus_of(name: str) -> str:
    """The documents of a set: two of them can ask about the same."""
    return {"two-step": "phantomwiki"}.get(name, name.removesuffix("-texts").removesuffix("-unseen"))


def split_atoms(folder: Path, name: str, articles: Sequence[dict[str, Any]]) -> list[Atom]:
    """The articles as a compile would split them: atoms without weights."""
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    (folder / "documents" / name).write_text("".join(json.dumps(a) + "\n" for a in articles), encoding="utf-8")
    read = [found for found in read_corpus([folder / "documents"]) if isinstance(found, Document)]
    atoms: dict[str, Atom] = {}
    for passage in (one for document in read for one in split_document(document)):
        place = Provenance(
            source=passage.source, start=passage.start, end=passage.end, source_sha256=passage.source_sha256
        )
        facts = {"title": passage.title, "text": passage.text, "headings": passage.headings}
        identity = digest_json([passage.source, *facts.values()])
        atoms[identity] = Atom(
            id=identity,
            type=passage.kind,
            **facts,
            questions=(),
            rank=1,
            alpha=1.0,
            record=TrainRecord(steps=0, loss=0.0, recall=1.0, seconds=0.0),
            weights_digest="0" * 64,
            provenances=(place,),
        )
    return list(atoms.values())


def written_questions(atoms: Sequence[Atom], folder: Path) -> list[tuple[Question, ...]]:
    """What the shipped writer asks of each atom; kept in a file, so that an interrupted run goes on where it was."""
    path = folder / "questions.jsonl"
    known = {line["atom"]: line["questions"] for _, line in read_jsonl(path)} if path.exists() else {}
    missing = [atom for atom in atoms if atom.id not in known]
    if missing:
        from atomlora.bases import EMBEDDED_BASE, load_base

        base = load_base(EMBEDDED_BASE, "cpu")
        writer = writer_for("auto", base.model, base.tokenizer)
        for start in range(0, len(missing), 16):
            some = missing[start : start + 16]
            texts = [AtomText(title=atom.title, text=atom.text, headings=atom.headings) for atom in some]
            with path.open("a", encoding="utf-8") as file:
                for atom, found in zip(some, writer.write(texts, 6, lambda *_: None), strict=True):
                    known[atom.id] = [question.model_dump(mode="json") for question in found]
                    file.write(json.dumps({"atom": atom.id, "questions": known[atom.id]}) + "\n")
            print(f"questions: {min(start + 16, len(missing))}/{len(missing)}", file=sys.stderr, flush=True)
        writer.close()
    return [tuple(Question.model_validate(one) for one in known[atom.id]) for atom in atoms]


def routing_set(name: str, inputs: Inputs, atoms: list[Atom], golden: Sequence[GoldenQuestion]) -> RoutingSet:
    """The set of these atoms; questions of which no atom holds the answer are left out, and of the others `limit` are
    taken, evenly spread."""
    sources = list(dict.fromkeys(atom.provenances[0].source for atom in atoms))
    number = {source: at for at, source in enumerate(sources)}
    passage_of = np.array([number[atom.provenances[0].source] for atom in atoms])
    texts = [" ".join(atoms[n].text for n in np.flatnonzero(passage_of == at)) for at in range(len(sources))]
    by_source: dict[str, list[int]] = defaultdict(list)
    for at, atom in enumerate(atoms):
        for source in {place.source for place in atom.provenances}:
            by_source[source].append(at)
    asked = []
    for one in golden:
        held = [at for source in one.sources for at in by_source.get(source, ())]
        right = frozenset(at for at in held if any(contains(atoms[at].text, (each,), "any") for each in one.golden))
        if right:
            asked.append(Asked(one.question, right, frozenset(int(passage_of[at]) for at in right)))
    asked = evenly(asked, inputs.limit)
    keys = store_keys(atoms)
    embeddings = embedded([text for _, text in keys], inputs, name)
    return RoutingSet(name, atoms, texts, passage_of, keys, embeddings, store_documents(atoms), asked)


def embedded(texts: Sequence[str], inputs: Inputs, name: str) -> np.ndarray:
    """float32 (n, d) of the texts; vectors are kept in a file by text, and new ones are added to it as they come."""
    path = inputs.work / f"{corpus_of(name)}-{inputs.embedder.fingerprint[:12]}.npz"
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    known: dict[str, np.ndarray] = {}
    if path.exists():
        with np.load(path, allow_pickle=False) as held:
            known = dict(zip(held["digests"].tolist(), held["vectors"], strict=True))
    missing = list(dict.fromkeys((d, t) for d, t in zip(digests, texts, strict=True) if d not in known))
    for start in range(0, len(missing), BATCH):
        some = missing[start : start + BATCH]
        known.update(zip([d for d, _ in some], inputs.embedder.encode([t for _, t in some]), strict=True))
        np.savez(path, digests=np.array(list(known)), vectors=np.array(list(known.values()), np.float32))
        print(f"{name}: embedded {min(start + BATCH, len(missing))}/{len(missing)}", file=sys.stderr, flush=True)
    return np.array([known[digest] for digest in digests], np.float32)


def real_keys(found: Sequence[RoutingSet], inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Keys and questions of the sets, or of the sample corpus by sentence."""
    if found:
        keys = np.concatenate([one.embeddings for one in found])
        questions = [one.question for some in found for one in some.asked]
    else:
        texts = [
            line
            for path in sorted((sample_path("kestrin") / "documents").rglob("*.md"))
            for line in path.read_text(encoding="utf-8").split("\n")
            if len(line.split()) > 4
        ]
        keys = embedded(texts, inputs, "sample-lines")
        golden = load_golden(sample_path("kestrin") / "golden.jsonl", None)
        questions = [one.question for one in golden]
    return np.unique(keys, axis=0), embedded(list(dict.fromkeys(questions))[:300], inputs, "questions")
