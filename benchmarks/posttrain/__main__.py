"""`python benchmarks/posttrain`: see `runner`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as the scripts beside this folder have it

from posttrain.runner import main

main()
