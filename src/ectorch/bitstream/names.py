"""Tensor names in few bytes: usual endings become one byte, then each name drops what it shares.

Names are sorted by their UTF-8 bytes. Front coding (as in Lucene's term dictionary): a byte whose
high half is the length shared with the name before and whose low half is the length of the rest;
15 in either half means that a varint of the excess follows.
"""

from __future__ import annotations

import re

from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import FormatError

# The position of an ending, from 1, is its byte in the file: append only, up to 31.
_ENDINGS = (b".weight", b".bias", b".running_mean", b".running_var", b".num_batches_tracked")
_CODES = bytes(range(32))
_CODE = re.compile(rb"[\x00-\x1f]")
_ESCAPED_OR_CODE = re.compile(rb"\x00.|[\x00-\x1f]", re.DOTALL)  # after 0 a byte is itself
# An ending is last.
_SHORT = re.compile(rb"[^\x00-\x1f]*(?:\x00[\x00-\x1f][^\x00-\x1f]*)*[\x01-\x05]?")
_LONG = 15


def is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can hold: one without lone surrogates."""
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def encode_name(name: str, previous: str) -> bytes:
    """``name`` after ``previous`` (empty for the first)."""
    short, before = _shorten(name), _shorten(previous)
    shared = _common_length(short, before)
    rest = short[shared:]
    out = bytes([min(shared, _LONG) << 4 | min(len(rest), _LONG)])
    for length in (shared, len(rest)):
        if length >= _LONG:
            out += varint(length - _LONG)
    return out + rest


def decode_name(cursor: Cursor, previous: str) -> str:
    """Inverse of `encode_name`.

    Raises:
        FormatError: when the name shares more than there is, or is no UTF-8.
    """
    head = cursor.byte()
    shared, length = head >> 4, head & 15
    if shared == _LONG:
        shared += cursor.varint()
    if length == _LONG:
        length += cursor.varint()
    before = _shorten(previous)
    if shared > len(before):
        raise FormatError(f"{cursor.what}: a name shares {shared} bytes with {previous!r}")
    return _lengthen(before[:shared] + cursor.take(length), cursor.what)


def _common_length(a: bytes, b: bytes) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


def _shorten(name: str) -> bytes:
    raw = name.encode()
    ending = next((code for code, end in enumerate(_ENDINGS, 1) if raw.endswith(end)), None)
    stem = raw if ending is None else raw[: -len(_ENDINGS[ending - 1])]
    escaped = _CODE.sub(rb"\0\g<0>", stem) if _holds_code(stem) else stem
    return escaped if ending is None else escaped + bytes([ending])


def _lengthen(short: bytes, what: str) -> str:
    coded = _holds_code(short)
    if coded and not _SHORT.fullmatch(short):
        raise FormatError(f"{what}: name holds an unknown byte")

    def expand(found: re.Match[bytes]) -> bytes:
        code = found[0]
        return code[1:] or _ENDINGS[code[0] - 1]

    try:
        return (_ESCAPED_OR_CODE.sub(expand, short) if coded else short).decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: name is no UTF-8") from error


def _holds_code(name: bytes) -> bool:
    """A hundred times as fast as a regular expression, which counts for names of many MiB."""
    return len(name.translate(None, _CODES)) < len(name)
