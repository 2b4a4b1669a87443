"""Documents into passages: the raw material of atoms, each a span of the document and a text standing
alone."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator

from atomlora.corpora.anaphora import is_anaphoric, leading_name
from atomlora.corpora.builder import title_from_source
from atomlora.corpora.documents import Block, Document
from atomlora.corpora.layout import Sentence, code_pieces, is_record, sentence, sentences_of, unwrapped
from atomlora.corpora.passages import Passage
from atomlora.corpora.settings import SplitSettings
from atomlora.corpora.types import AtomType, classify

Classifier = Callable[[str, str], AtomType]
_LISTED = ("list_item", "step", "table_header", "table_row", "code", "definition")
_PERSONAL = re.compile(r"(?:it|its|he|his|she|her|they|their|the)\b", re.IGNORECASE)
_TERM = re.compile(r"^[^.:;\n]{1,60}?(?::| [–—-]) \S")


def split_document(
    document: Document, settings: SplitSettings | None = None, classifier: Classifier = classify
) -> list[Passage]:
    """The passages of `document`, in order, their spans apart from each other.

    A plain sentence is a passage of its own. One that points back (`anaphora.is_anaphoric`), or answers a
    question, joins the sentence before, up to `max_sentences` and `max_words`; where there is none, or it is full, the
    name it points to is put in front: the name that the joined sentences open with, else "Title – Heading". Sentences
    without content join a neighbour. List items carry their lead-in sentence or the item above them, steps and table
    rows the title and heading, and code its qualified name. The first item's span takes in the lead-in.
    """
    splitter = _Splitter(document, settings or SplitSettings(), classifier)
    return list(splitter.passages())


class _Splitter:
    def __init__(self, document: Document, settings: SplitSettings, classifier: Classifier) -> None:
        self._document, self._settings, self._classifier = document, settings, classifier
        greetings = "|".join(re.escape(greeting) for greeting in settings.greetings)
        self._greeting = re.compile(rf"(?:{greetings})\b" if greetings else r"(?!)", re.IGNORECASE)
        self._page_starts = [page.start for page in document.pages]
        self._lead: Sentence | None = None  # the sentence before a list, and whether a span holds it yet
        self._lead_open = False
        self._parents: dict[int, str] = {}

    def passages(self) -> Iterator[Passage]:
        blocks = self._document.blocks
        stream: list[Sentence] = []
        for index, block in enumerate(blocks):
            following = blocks[index + 1] if index + 1 < len(blocks) else None
            if block.kind == "paragraph":
                if not stream:
                    self._forget_lead()
                found = sentences_of(self._document, block.start, block.end, self._settings.hard_words)
                stream = _joined_over_breaks(self._document, stream, found)
                if following is not None and following.kind == "paragraph" and following.headings == block.headings:
                    continue
                introduces = following is not None and following.kind in _LISTED
                if stream and introduces and stream[-1].text.endswith(":"):
                    self._lead, self._lead_open = stream.pop(), True
                    if stream and all(self._is_empty(one) for one in stream):  # "Dear all," goes with the lead-in
                        self._lead = sentence(self._document, stream[0].start, self._lead.end)
                        stream = []
                yield from self._prose(stream, block.headings)
                stream = []
            elif block.kind == "heading":
                self._forget_lead()
                if self._is_lonely(block, following):
                    yield self._lonely(block)
            elif block.kind == "table_header":
                if following is None or following.kind != "table_row":
                    yield self._listed(block, self._text_of(block), "table_row")
            else:
                yield from self._listed_block(block)

    def _is_lonely(self, block: Block, following: Block | None) -> bool:
        """A heading with nothing under it is a statement of its own if it says enough."""
        ends = following is None or (following.kind == "heading" and following.depth <= block.depth)
        is_title = self._text_of(block) == self._document.title
        text = self._text_of(block)
        words = len(text.split())  # "Phone 0431 12345" says something, "Opening hours" does not
        says = words >= self._settings.min_words or (words > 1 and bool(re.search(r"\d", text)))
        return ends and not is_title and says

    def _lonely(self, block: Block) -> Passage:
        text = self._text_of(block)
        above = tuple(heading for heading in block.headings if heading != text)
        about = self._context(above) if len(text.split()) < self._settings.min_words else ""
        return self._make(block.start, block.end, f"{about}: {text}" if about else text, text, "statement", above)

    # ---- prose

    def _prose(self, sentences: list[Sentence], headings: tuple[str, ...]) -> Iterator[Passage]:
        previous_head = ""
        for number, group in enumerate(self._groups(sentences, headings)):
            opening = next((one for one in group if not self._is_empty(one)), group[0])
            text = " ".join(one.text for one in group)
            asked = headings[-1] if number == 0 and headings and headings[-1].endswith("?") else ""
            prefix = ""
            if asked:
                prefix = f"{asked} "
            elif is_anaphoric(opening.text, self._settings) or self._is_bare(group, headings):
                personal = _PERSONAL.match(opening.text) is not None  # "In this way ..." means no one name
                name = (leading_name(previous_head) if personal else "") or self._context(headings)
                prefix = f"{name}: " if name else ""
            else:
                previous_head = opening.text
            hint = "definition" if self._is_glossary(headings) and _TERM.match(text) else "statement"
            yield self._make(group[0].start, group[-1].end, prefix + text, text, hint, headings)

    def _groups(self, sentences: list[Sentence], headings: tuple[str, ...]) -> list[list[Sentence]]:
        groups: list[list[Sentence]] = []
        waiting = False  # whether the last group is of sentences without content that had nothing before them
        words = 0  # of the last group
        for one in sentences:
            empty = self._is_empty(one)
            if not groups:
                joins = False
            elif empty or waiting:
                joins = words + one.words <= self._settings.hard_words
            else:
                joins = words + one.words <= self._settings.max_words and self._leans(one, groups[-1], headings)
            if joins:
                groups[-1].append(one)
                words += one.words
                waiting = waiting and empty
            else:
                groups.append([one])
                words, waiting = one.words, empty
        return groups

    def _leans(self, one: Sentence, group: list[Sentence], headings: tuple[str, ...]) -> bool:
        counted = [other for other in group if not self._is_empty(other)]
        if len(counted) >= self._settings.max_sentences:
            return False
        if is_record(one.text) and self._is_glossary(headings):
            return False
        return is_anaphoric(one.text, self._settings) or group[-1].text.endswith("?")

    def _is_empty(self, one: Sentence) -> bool:
        if is_record(one.text):
            return False
        if one.words < self._settings.min_words:
            return True
        return one.words < 2 * self._settings.min_words and bool(self._greeting.match(one.text))

    def _is_bare(self, group: list[Sentence], headings: tuple[str, ...]) -> bool:
        """A lone "Key: value" line, or words too few to say what they are about."""
        if len(group) == 1 and is_record(group[0].text) and not self._is_glossary(headings):
            return group[0].words <= 12
        return all(self._is_empty(one) for one in group) and not leading_name(group[0].text)

    def _is_glossary(self, headings: tuple[str, ...]) -> bool:
        words = re.findall(r"\w+", " ".join((self._document.title, *headings[-1:])).lower())
        return any(word in self._settings.glossary_headings for word in words)

    def _context(self, headings: tuple[str, ...]) -> str:
        """ "Title – Heading"; a title that is only the file's name is left out where a heading says more."""
        title = unwrapped(self._document.title)
        if headings and title == title_from_source(self._document.source):
            title = ""
        parts = [title, *headings[-1:]]
        return " – ".join(part for index, part in enumerate(parts) if part and part not in parts[:index])

    # ---- lists, tables, code

    def _listed_block(self, block: Block) -> Iterator[Passage]:
        text = self._text_of(block)
        context = self._context(block.headings)
        if block.kind == "table_row":
            about = " – ".join(part for part in (context, block.caption) if part)
            yield self._listed(block, f"{about}: {text}" if about else text, "table_row", use_lead=False)
        elif block.kind == "definition":
            yield self._listed(block, text, "definition", use_lead=False)
        elif block.kind == "code":
            yield from self._code(block, context)
        else:
            yield from self._item(block, text, context)

    def _code(self, block: Block, context: str) -> Iterator[Passage]:
        if block.statement:
            yield self._listed(block, block.statement, "code", use_lead=False)
            return
        first = True
        for start, end in code_pieces(self._document.text, block.start, block.end, self._settings.hard_words):
            code = self._document.text[start:end]
            lead = f" {self._lead.text}" if self._lead is not None else ""
            about = f"{context}:{lead}" if context else lead.strip()
            if first:
                start, first = self._claim_lead(start), False
            yield self._make(start, end, f"{about}\n{code}".strip("\n"), code, "code", block.headings)

    def _item(self, block: Block, text: str, context: str) -> Iterator[Passage]:
        self._parents = {depth: said for depth, said in self._parents.items() if depth < block.depth}
        parent = self._parents.get(block.depth - 1, "")
        self._parents[block.depth] = text
        lead = self._lead.text if self._lead is not None else ""
        if block.kind == "step":
            about = " – ".join(part for part in (context, lead.rstrip(" :")) if part)
            label = f"{about}, step {block.number}: " if about else f"Step {block.number}: "
            yield from self._item_parts(block, label, "procedure")
            return
        hint = "definition" if self._is_glossary(block.headings) and _TERM.match(text) else "statement"
        if hint == "definition":
            prefix = f"{lead} " if self._lead_open else ""
        elif parent and block.depth > 0:
            prefix = f"{parent.rstrip(':.')}: "
            if not self._stands_alone(parent):
                prefix = f"{context} – {prefix}" if context else prefix
        elif lead:
            prefix = f"{lead} "
            if context and (is_anaphoric(lead, self._settings) or not re.search(r"\s[A-Z]", lead)):
                prefix = f"{context}: {prefix}"
        else:
            prefix = "" if self._stands_alone(text) or not context else f"{context}: "
        yield from self._item_parts(block, prefix, hint)

    def _stands_alone(self, text: str) -> bool:
        enough = len(text.split()) > self._settings.min_words and text.endswith((".", "!", "?", "。"))
        return enough and not is_anaphoric(text, self._settings) and not is_record(text)

    def _item_parts(self, block: Block, prefix: str, hint: str) -> Iterator[Passage]:
        """An item is one passage if it is of a passage's size, else one for each group of its sentences."""
        sentences = sentences_of(self._document, block.start, block.end, self._settings.hard_words)
        small = len(sentences) <= self._settings.max_sentences
        if small and sum(one.words for one in sentences) <= self._settings.max_words:
            groups = [sentences]
        else:
            groups = self._groups(sentences, block.headings)
        for number, group in enumerate(group for group in groups if group):
            text = " ".join(one.text for one in group)
            start = self._claim_lead(group[0].start) if number == 0 else group[0].start
            yield self._make(start, group[-1].end, prefix + text, text, hint, block.headings)

    def _listed(self, block: Block, text: str, hint: str, use_lead: bool = True) -> Passage:
        lead = self._lead.text if self._lead is not None and (use_lead or self._lead_open) else ""
        start = self._claim_lead(block.start)
        return self._make(start, block.end, f"{lead} {text}".strip(), text, hint, block.headings)

    def _claim_lead(self, start: int) -> int:
        if self._lead is not None and self._lead_open:
            self._lead_open = False
            return self._lead.start
        return start

    def _forget_lead(self) -> None:
        self._lead, self._lead_open, self._parents = None, False, {}

    # ---- making

    def _text_of(self, block: Block) -> str:
        return block.statement or unwrapped(self._document.text[block.start : block.end])

    def _make(self, start: int, end: int, text: str, body: str, hint: str, headings: tuple[str, ...]) -> Passage:
        page = None
        if self._page_starts:
            page = self._document.pages[max(0, bisect_right(self._page_starts, start) - 1)].number
        return Passage(
            source=self._document.source,
            source_sha256=self._document.sha256,
            start=start,
            end=end,
            page=page,
            text=text,
            title=self._document.title,
            headings=headings,
            kind=self._classifier(body, hint),
            labels=self._document.labels,
            date=self._document.date,
            date_origin=self._document.date_origin,
        )


def _joined_over_breaks(document: Document, before: list[Sentence], after: list[Sentence]) -> list[Sentence]:
    """Two paragraphs' sentences; one broken off in the middle (by a page, by a figure) is made whole."""
    if before and after and after[0].text[0].islower() and before[-1].text[-1].isalnum():
        whole = sentence(document, before[-1].start, after[0].end)
        return [*before[:-1], whole, *after[1:]]
    return [*before, *after]
