"""Bytes to text: byte order marks, UTF-8, then a guess by charset-normalizer; binary data is refused."""

import codecs
import re

from atomlora.errors import InputError

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_SAMPLE_BYTES = 65_536
# Two letters with a sign between them, or a capital behind a small letter: no Western text reads so
_MISREAD = re.compile(r"[^\W\d_](?:[^\x00-\x7f\w’‘´\xad·–—…]|[¹²³])[^\W\d_]|[a-zß-ÿ][À-ÞŠŒŽŸ]")
_NEWLINES = re.compile(r"\r\n?|\u2028|\u2029|\x85")


def decode(data: bytes, breaks: re.Pattern[str] = _NEWLINES) -> str:
    """The text of `data` with plain newlines for all `breaks`.

    Raises InputError for binary data and for encodings that cannot be told; the message says what to do.
    """
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            try:
                text = data[len(mark) :].decode(name)
            except UnicodeDecodeError as error:
                raise InputError(f"has a {name} byte order mark but is not valid {name}: save it as UTF-8") from error
            if "\0" in text:
                raise InputError("contains NUL characters: remove them or leave the file out")
            return breaks.sub("\n", text)
    if b"\0" in data:
        raise InputError("contains NUL bytes, so it is binary or damaged: convert it to text or leave it out")
    if len(_CONTROL.findall(data[:_SAMPLE_BYTES])) > 0.01 * min(len(data), _SAMPLE_BYTES):
        raise InputError("looks like binary data: convert it to text or leave it out")
    try:
        return breaks.sub("\n", data.decode("utf-8"))
    except UnicodeDecodeError:
        return breaks.sub("\n", _decode_guessed(data))


def _western(data: bytes) -> str | None:
    """The text as Windows-1252, where it looks like a Western language: a guess by statistics takes a few pound signs
    and accents for Polish or Japanese."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    letters = sum(map(str.isalpha, text))
    accented = sum(character > "\x7f" for character in text if character.isalpha())
    return None if 2 * accented > letters or _MISREAD.search(text) else text


def _decode_guessed(data: bytes) -> str:
    if (text := _western(data)) is not None:
        return text
    from charset_normalizer import from_bytes  # slow to import, seldom needed

    # The guess reads only some chunks; the first byte above ASCII must be among them.
    first = next(index for index, byte in enumerate(data) if byte > 127)
    sample = data[max(0, first - 2_000) : first + _SAMPLE_BYTES]
    match = from_bytes(sample).best()
    if match is not None:
        try:
            return data.decode(match.encoding)
        except UnicodeDecodeError:
            pass
    raise InputError("is in an encoding that cannot be told: save it as UTF-8")
