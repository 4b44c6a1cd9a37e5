"""What is said where a package is missing that comes with an extra."""

from __future__ import annotations

_EXTRAS = ("cli", "torch", "experiments", "tensorboard")  # from little to all
EXTRA_OF = {  # the least that brings a package, by the name under which it is imported
    "rich": "cli",
    "typer": "cli",
    "safetensors": "torch",
    "torch": "torch",
    "PIL": "experiments",
    "jinja2": "experiments",
    "matplotlib": "experiments",
    "platformdirs": "experiments",
    "pydantic": "experiments",
    "sklearn": "experiments",
    "tomli": "experiments",
    "tensorboard": "tensorboard",
}
_WITHOUT_TORCH = {
    "ectorch.load_file": "ectorch.bitstream.load_file",
    "ectorch.safe_open": "ectorch.bitstream.Reader",
}


def missing(what: str, error: ModuleNotFoundError, extra: str | None = None) -> ModuleNotFoundError:
    """The error to raise in place of ``error``: it names what to install.

    Args:
        what: was to be used.
        error: of an import; it comes back as it is where no extra brings the package.
        extra: that brings all ``what`` needs, where this is more than the one package.
    """
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF:
        return error
    named = max(extra or EXTRA_OF[package], EXTRA_OF[package], key=_EXTRAS.index)
    words = f"{what} needs {package}: pip install 'ectorch[{named}]'"
    if other := _WITHOUT_TORCH.get(what):
        words += f"; {other} reads the same files without it"
    return ModuleNotFoundError(words, name=error.name)
