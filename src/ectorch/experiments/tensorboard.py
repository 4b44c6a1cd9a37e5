"""What a training measures, in TensorBoard; needs its package, and imports it when used."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from ectorch.experiments.progress import Progress


class TensorBoard:
    """A callback of `train`: losses, errors, alpha, and bytes of the file and of every tensor.

    Args:
        folder: of the event files.

    Raises:
        ImportError: when TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def __call__(self, progress: Progress, point: str = "") -> None:
        """Add to every line, at the end of an epoch; ``point``: of which of several trainings."""
        if not progress.ends_epoch:
            return
        values = {
            "loss": progress.loss,
            "error_percent": progress.error_percent,
            "alpha": progress.alpha,
            "gap_percent": progress.gap_percent,
            "size_bytes": progress.size_bytes,
        } | {f"tensor_bytes/{name}": size for name, size in (progress.tensor_bytes or {}).items()}
        stage = f"{point} {progress.stage}".strip()
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(f"{stage}/{name}", value, progress.step)
