"""How documents are split, and the words that the splitting rules go by."""

from pydantic import BaseModel, ConfigDict, Field


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


class SplitSettings(BaseModel):
    """Every number and word list of the splitting rules; replace any of them, say for another
    language.

    max_sentences, max_words: the size up to which a sentence that leans on the one before is joined to it.
    min_words: sentences with fewer words (greetings, "Yes.") are joined to a neighbour.
    hard_words: a run of words without a sentence end is cut here.
    anaphoric_words: a sentence that opens with one of them names nothing by itself.
    subject_pronouns: those looked for behind an introductory phrase ("In 1990 she ...").
    connectives: openings that point back.
    anaphoric_nouns: "The ship ..." points back even where no verb of the list in `anaphora` follows.
    introducers: words that open an introductory phrase.
    subordinators: words that open a clause which may name the subject itself ("When Chopin
        was seven, he ...").
    greetings: openings of sentences without content.
    glossary_headings: under such a heading "Term: words" is a definition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_sentences: int = Field(default=3, ge=1)
    max_words: int = Field(default=60, ge=1)
    min_words: int = Field(default=4, ge=0)
    hard_words: int = Field(default=120, ge=10)
    anaphoric_words: tuple[str, ...] = _words(
        "it its they their them he his him she her hers this that these those such both neither "
        "either each another others here there one some most many several all none "
        "er sie ihr ihre ihren ihm dieser diese dieses diesem diesen dort dabei dazu davon dadurch"
    )
    subject_pronouns: tuple[str, ...] = _words("it they he she this these")
    connectives: tuple[str, ...] = (
        *_words(
            "however moreover furthermore besides then later afterwards afterward instead also "
            "therefore thus hence nevertheless nonetheless meanwhile finally similarly likewise "
            "otherwise consequently additionally and but or so yet still "
            "außerdem danach dann zudem ferner jedoch deshalb daher dennoch anschließend ebenso hierzu"
        ),
        "in addition",
        "in contrast",
        "as a result",
        "for example",
        "for instance",
        "since then",
        "after that",
        "before that",
        "at that time",
        "at the time",
        "that year",
        "the same",
        "the former",
        "the latter",
        "the following year",
        "a year later",
        "in turn",
        "on the other hand",
    )
    anaphoric_nouns: tuple[str, ...] = _words(
        "company firm society association club organisation organization group team board "
        "committee ship vessel ferry boat building house tower bridge church museum castle town "
        "city village island region country area river book novel film song album game work "
        "project programme program system device machine engine product model method process "
        "result man woman boy girl author artist king queen couple family event war battle law "
        "act agreement"
    )
    introducers: tuple[str, ...] = _words(
        "in on at by from during after before since until within under over through with without "
        "for as when while although though because if once where today now originally initially "
        "eventually soon again currently"
    )
    subordinators: tuple[str, ...] = _words(
        "when while although though because if once where whereas since after before until as"
    )
    greetings: tuple[str, ...] = (
        *_words("hi hello dear greetings welcome thanks regards cheers"),
        "thank you",
        "kind regards",
        "best regards",
        "yours sincerely",
        "good morning",
        "good evening",
    )
    glossary_headings: tuple[str, ...] = _words(
        "glossary definitions terms terminology vocabulary abbreviations acronyms"
    )
