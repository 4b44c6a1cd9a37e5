"""Tensor names in few bytes: usual endings become one byte, then each name drops what it shares.

Names are sorted by their UTF-8 bytes. Front coding (as in Lucene's term dictionary): a byte whose
high half is the length shared with the name before and whose low half is the length of the rest;
15 in either half means that a varint of the excess follows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import ConfigError, FormatError, UnsupportedTensorError

# The position of an ending, from 1, is its byte in the file: append only, up to 31.
_ENDINGS = (b".weight", b".bias", b".running_mean", b".running_var", b".num_batches_tracked")
_CODE = re.compile(rb"[\x00-\x1f]")
_ESCAPED = re.compile(rb"\x00([\x00-\x1f])")  # after 0 a byte is itself
_LONG = 15


def check_name(name: object) -> None:
    """Refuse what is no name of a tensor.

    Raises:
        UnsupportedTensorError: for what is no Unicode text.
    """
    if not _is_text(name):
        raise UnsupportedTensorError(f"{name!r} is no Unicode text, expected a named tensor")


def check_metadata(metadata: object) -> None:
    """Refuse what a header cannot hold.

    Raises:
        ConfigError: for what is no text by text, naming the key.
    """
    if not isinstance(metadata, Mapping):
        raise ConfigError(f"metadata are a {type(metadata).__name__}, expected texts by name")
    for key, value in metadata.items():
        for text in (key, value):
            if not _is_text(text):
                what = f"{text!r} is a {type(text).__name__}"
                raise ConfigError(f"metadata[{key!r}]: {what}, expected Unicode text")


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


def decode_name(
    cursor: Cursor, previous: str, spend: Callable[[int], None] = lambda size_bytes: None
) -> str:
    """Inverse of `encode_name`.

    Args:
        spend: is told the bytes of the name before it is built, and may raise.

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
    spend(shared + min(length, cursor.remaining))
    return _lengthen(before[:shared] + cursor.take(length), cursor.what)


def _is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can hold: no lone surrogates."""
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def _common_length(a: bytes, b: bytes) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


def _shorten(name: str) -> bytes:
    raw = name.encode()
    ending = next((code for code, end in enumerate(_ENDINGS, 1) if raw.endswith(end)), None)
    stem = raw if ending is None else raw[: -len(_ENDINGS[ending - 1])]
    escaped = _CODE.sub(rb"\0\g<0>", stem)
    return escaped if ending is None else escaped + bytes([ending])


def _lengthen(short: bytes, what: str) -> str:
    codes = _ESCAPED.sub(b"-", short)  # what is below 32 now is no part of the name
    code = codes[-1] if _CODE.match(codes[-1:]) else None
    if _CODE.search(codes[:-1]) or code not in (None, *range(1, len(_ENDINGS) + 1)):
        raise FormatError(f"{what}: name holds an unknown byte")
    stem, ending = (short, b"") if code is None else (short[:-1], _ENDINGS[code - 1])
    try:
        return (_ESCAPED.sub(rb"\1", stem) + ending).decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: name is no UTF-8") from error
