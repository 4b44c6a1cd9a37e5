"""`python benchmarks/coder`: see `measure`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as the scripts beside this folder have it

from coder.measure import main

main()
