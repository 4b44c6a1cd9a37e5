"""Tensors <-> bytes, with NumPy only: ``import ectorch.bitstream`` never imports torch."""

from ectorch.bitstream.atomic import write_atomic
from ectorch.bitstream.container import encode_file
from ectorch.bitstream.numpy_io import load_file
from ectorch.bitstream.reader import Reader
from ectorch.bitstream.tensor import DTYPES, RawTensor

__all__ = ["DTYPES", "RawTensor", "Reader", "encode_file", "load_file", "write_atomic"]
