"""Every error that ectorch raises on purpose: one leaf per cause, all with a one-line message."""


class EctorchError(Exception):
    """Base of all ectorch errors; the command line prints it in one line and exits with 2."""


class FormatError(EctorchError, ValueError):
    """An ``.ect`` file is damaged, newer than this reader, or larger than the reader may decode."""


class ConfigError(EctorchError, ValueError):
    """A `Config` field, name pattern or override is wrong."""


class UnsupportedLayerError(EctorchError, TypeError):
    """A parameter that was asked for cannot be constrained."""


class MismatchError(EctorchError, ValueError):
    """Stored tensors and the model, or two things that must be equal, are not."""


class UnknownTensorError(EctorchError, KeyError):
    """A file has no tensor of a name that was asked for."""

    __str__ = Exception.__str__  # KeyError's shows the quotes of its argument


class UnsupportedTensorError(EctorchError, TypeError):
    """A tensor's dtype or layout cannot be stored."""


class RecipeError(EctorchError, ValueError):
    """A recipe has an unknown key, a wrong type or an impossible value."""


class DataError(EctorchError, RuntimeError):
    """A data set could not be had, or is not the one that was expected."""


class TrainingError(EctorchError, RuntimeError):
    """Training cannot go on: the loss is not finite, or a checkpoint does not fit the run."""


class DivergedError(TrainingError):
    """A constrained parameter holds NaN or infinity, which no level stands for."""
