"""Layouts, hints and chunks of the context coder; its model has tests of its own."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectorch.bitstream.codings import context
from ectorch.bitstream.codings.context import Alphabet, ContextStream, Layout
from ectorch.bitstream.wire import Cursor
from ectorch.errors import FormatError

TERNARY = Alphabet(3, 1)


def draw(shape, seed=0, share=0.2):
    rng = np.random.default_rng(seed)
    nonzero = rng.random(shape) < share
    return (1 + nonzero * rng.choice([-1, 1], shape)).astype(np.uint16).reshape(-1)


def decode(stream, shape, alphabet=TERNARY, counts=context.no_counts):
    parsed = ContextStream(Cursor(stream, "w"), shape, alphabet, counts)
    out = np.empty(math.prod(shape), np.uint16)
    for at in range(len(parsed)):
        parsed.decode_into(at, out[at * parsed.chunk_items :][: parsed.chunk_items])
    return out


LAYOUTS = st.builds(
    Layout,
    order=st.integers(0, 3),
    live=st.booleans(),
    light=st.booleans(),
    maps=st.sampled_from([None, (1, 1), (2, 3), (3, 1)]),
    hint=st.sampled_from([None, 7]),
)


@given(
    st.sampled_from([(4, 12), (5, 2, 2, 3), (3, 2, 6), (2, 2, 1, 2, 3), (1, 6)]),
    LAYOUTS,
    st.integers(0, 9),
)
def test_every_layout_of_every_shape_comes_back(shape, layout, seed):
    symbols = draw(shape, seed)
    hints = {7: np.array([0, 5], np.uint32)}
    stream = context.encode(symbols, shape, TERNARY, layout, hints)
    assert np.array_equal(decode(stream, shape, counts=hints.__getitem__), symbols)
    assert context.decode_layout(Cursor(stream, "w")) == layout


@pytest.mark.parametrize("shape", [(), (1,), (40,)])
def test_tensors_without_columns_are_one_column(shape):
    symbols = draw(shape)
    assert np.array_equal(
        decode(context.encode(symbols, shape, TERNARY, Layout(), {}), shape), symbols
    )


def test_chunks_are_coded_alone(monkeypatch):
    monkeypatch.setattr(context, "_CHUNK_ITEMS", 60)
    shape = (20, 12)  # chunks of five rows
    symbols = draw(shape)
    stream = context.encode(symbols, shape, TERNARY, Layout(), {})
    parsed = ContextStream(Cursor(stream, "w"), shape, TERNARY, context.no_counts)
    assert len(parsed) == 4
    out = np.empty(60, np.uint16)
    for at in (3, 0, 2):
        parsed.decode_into(at, out)
        assert np.array_equal(out, symbols[at * 60 : (at + 1) * 60])
    alone = context.encode(symbols[60:120], (5, 12), TERNARY, Layout(), {})
    assert alone[1:] in stream


def test_a_hint_that_tells_dead_columns_saves_bytes():
    rng = np.random.default_rng(3)
    dead = rng.random(120) < 0.5
    symbols = draw((40, 120), share=0.3).reshape(40, 120)
    symbols[:, dead] = 1
    hints = {2: np.where(dead, 0, 9).astype(np.uint32), 4: np.full(120, 9, np.uint32)}
    found, _ = context.search(symbols.reshape(-1), (40, 120), TERNARY, hints)
    assert found.hint == 2
    assert not found.light
    plain, hinted = (
        len(context.encode(symbols.reshape(-1), (40, 120), TERNARY, layout, hints))
        for layout in (Layout(), Layout(hint=2))
    )
    assert hinted < plain - 5


def test_rows_that_are_images_are_found():
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:16, :16]
    blob = (y - 7.5) ** 2 + (x - 7.5) ** 2 < 25
    symbols = np.where(blob & (rng.random((60, 16, 16)) < 0.5), 2, 1).astype(np.uint16)
    assert context.search(symbols.reshape(-1), (60, 256), TERNARY, {})[0].maps == (16, 16)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "1 bytes expected"),
        (b"\x40", "unknown layout 64"),
        (b"\x10\x00\x00", "maps of 0x0"),
        (b"\x10\x05\x01", "maps of 5x1 in rows of 12"),
        (b"\x20\x02", "5 rows of another tensor for 12 columns"),
        (b"\0" + b"\xff" * 40, "outside of the coded interval"),
    ],
)
def test_damage_is_refused_by_name(stream, message):
    with pytest.raises(FormatError, match=f"w: .*{message}"):
        decode(stream, (4, 12), counts={2: np.zeros(5, np.uint32)}.__getitem__)


def test_rows_that_are_too_long_are_refused():
    assert not context.can_encode((2, 1 << 19))
    assert not context.can_encode((0, 3))
    with pytest.raises(FormatError, match="rows of"):
        ContextStream(Cursor(b"\0", "w"), (2, 1 << 19), TERNARY, context.no_counts)
