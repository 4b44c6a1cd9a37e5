"""The command ``ectorch``, which is ``python -m ectorch``, too."""

from __future__ import annotations

import sys

from ectorch.extras import missing


def main() -> None:
    """Run the command line; where its own packages are missing, one line names their extra."""
    try:
        from ectorch.cli import main as run
    except ModuleNotFoundError as error:
        print(f"ectorch: {missing('the command line', error)}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    run()


if __name__ == "__main__":
    main()
