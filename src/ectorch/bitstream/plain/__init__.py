"""The compiled module's twin in plain Python: its oracle, and what runs where it was not built."""

from ectorch.bitstream.plain.codebook import find_distinct, take
from ectorch.bitstream.plain.context_model import context_decode, context_encode
from ectorch.bitstream.plain.rans import (
    count_runs,
    count_symbols,
    rans_decode_dense,
    rans_decode_runs,
    rans_encode_dense,
    rans_encode_runs,
)
from ectorch.bitstream.plain.static_coder import decode_table, static_decode, static_encode

__all__ = [
    "context_decode",
    "context_encode",
    "count_runs",
    "count_symbols",
    "decode_table",
    "find_distinct",
    "rans_decode_dense",
    "rans_decode_runs",
    "rans_encode_dense",
    "rans_encode_runs",
    "static_decode",
    "static_encode",
    "take",
]
