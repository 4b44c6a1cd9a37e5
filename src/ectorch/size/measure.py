"""Sizes without a file: estimated bits, and the bytes that the file would take."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ectorch.arguments import check_module, shown
from ectorch.bitstream.codings.choose import Choice
from ectorch.bitstream.file.meter import FileMeter
from ectorch.bitstream.file.writer import estimate_file_bits
from ectorch.bitstream.parallel import check_threads
from ectorch.bitstream.tensor import RawTensor
from ectorch.errors import ConfigError
from ectorch.storage.tensors import raw_tensors
from ectorch.workflow import copied, finalize


def rate_bits(model: nn.Module | Mapping[str, Tensor]) -> float:
    """Estimated size in bits of the file that `save_file` would write: no coder runs.

    Symbols at their entropy under the stored frequencies, codebooks, tables, floats as they are,
    names, index and checksums: within 1 % plus 64 bytes of a file of the preset "fast", except
    that what zstd or byte planes shrink is estimated without them. The context coder of the other
    presets gets below. An estimate: what is reported are sizes of files.
    """
    return estimate_file_bits(raw_tensors(model))


@dataclass(frozen=True)
class FileSize:
    """Bytes of a file.

    Attributes:
        total: of the whole file.
        tensors: of each tensor's codebook and symbols, by name; an equal earlier tensor costs
            nothing again.
    """

    total: int
    tensors: dict[str, int]


class SizeMeter:
    """Measures a network while it trains: the file that `save_file` would write, by its own coder.

    The network is copied, finalized as it will be in the end, and coded; the search for how to code
    a tensor is repeated only where it has changed much. So the size is that of the file, or
    slightly more, at a fraction of the time; rarely it is a byte or two less.

    Args:
        finalize: what will be done to the network before it is saved; it may change the copy. To
            measure the file of ``finalize(model, batches, forward_only=True)``, give
            ``partial(finalize, batches=batches, forward_only=True)``; batches cost their time.
        threads: that code; all cores if None.

    Raises:
        ConfigError: when ``finalize`` is no function of a network.

    >>> from ectorch.storage.files import save
    >>> net, meter = nn.Linear(8, 4), SizeMeter()
    >>> meter(net).total == len(save(net))
    True
    >>> sorted(meter(net).tensors)
    ['bias', 'weight']
    >>> size = meter.start(net)  # the coder runs while a training goes on
    >>> size.result().total == len(save(net))
    True
    """

    def __init__(
        self,
        finalize: Callable[..., nn.Module] = finalize,
        threads: int | None = None,
    ) -> None:
        if isinstance(finalize, nn.Module) or not callable(finalize):
            raise ConfigError(
                f"finalize = {shown(finalize)}: expected a function of a network, as "
                "ectorch.finalize; the network goes to the meter, SizeMeter()(model)"
            )
        self.finalize, self._threads = finalize, threads
        self._meter = FileMeter()
        self._coder: ThreadPoolExecutor | None = None  # of one thread: one after the other
        self._last: Future[FileSize] | None = None

    def __call__(self, model: nn.Module) -> FileSize:
        """Measure ``model``, which is left as it is, torch's random state too.

        Raises:
            ConfigError: when ``model`` is no module.
            UnsupportedLayerError: when the model cannot be copied.
            UnsupportedTensorError: as `save_file`.
        """
        tensors = self._final_tensors(model)
        self._wait()
        return self._measure(tensors)

    def start(self, model: nn.Module) -> Future[FileSize]:
        """Measure ``model`` as it is now, and return before the coder has run.

        The copy is made and finalized before this returns: tracing a network changes how torch
        calls modules, so no thread may do it beside a training. What follows, which is most of the
        time where weights are many and sparse, happens in a thread of its own, one network after
        the other, and touches neither the model nor torch. Sizes are those that calls in the same
        order give, whenever they are asked for.

        Returns:
            a future: ``result()`` waits for the size, or raises what the coder raised.

        Raises:
            ConfigError, UnsupportedLayerError, UnsupportedTensorError: at once, as a call.
        """
        check_threads(self._threads)
        tensors = self._final_tensors(model)
        if self._coder is None:
            self._coder = ThreadPoolExecutor(1, thread_name_prefix="ectorch-meter")
        self._last = self._coder.submit(self._measure, tensors)
        return self._last

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """What a checkpoint keeps, for sizes not to depend on where training was interrupted.

        It waits for what was started.
        """
        self._wait()
        return {name: choice.as_dict() for name, choice in self._meter.found.items()}

    def load_state_dict(self, state: Mapping[str, dict[str, Any]]) -> None:
        """Go on as the meter of whom ``state`` is; what earlier versions kept is found anew."""
        self._wait()
        kept = {name: each for name, each in state.items() if isinstance(each, Mapping)}
        self._meter.found = {name: Choice.from_dict(each) for name, each in kept.items()}

    def _final_tensors(self, model: nn.Module) -> dict[str, RawTensor]:
        check_module("SizeMeter", model)
        devices = {t.device for t in model.parameters() if t.is_cuda}
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is wrong with a copy that is only measured
            final = self.finalize(copied(model))
        return raw_tensors(final)

    def _measure(self, tensors: dict[str, RawTensor]) -> FileSize:
        return FileSize(*self._meter.measure(tensors, self._threads))

    def _wait(self) -> None:
        if self._last is not None:
            wait([self._last])  # what it raises is for its own caller
