"""Tensors <-> bytes, with NumPy only: ``import ectorch.bitstream`` never imports torch."""

from ectorch.bitstream.file.atomic import write_atomic
from ectorch.bitstream.file.numpy_io import load_file
from ectorch.bitstream.file.reader import Reader
from ectorch.bitstream.file.writer import encode_file
from ectorch.bitstream.tensor import DTYPES, RawTensor

__all__ = ["DTYPES", "RawTensor", "Reader", "encode_file", "load_file", "write_atomic"]
