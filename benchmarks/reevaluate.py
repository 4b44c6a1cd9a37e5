"""Every kept file still evaluates to what its result says, and is written again byte for byte.

    python benchmarks/reevaluate.py --out benchmarks/results/reevaluated.json

Goes through results/mnist and results/cifar10, test images as in the results: sizes, errors and
predictions. Fails where a file differs. The bytes are those of the version of zstandard that wrote
the files.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from provenance import provenance, write_results

import ectorch as ec
from ectorch.experiments.data import load
from ectorch.experiments.evaluation import evaluate
from ectorch.experiments.networks import NETWORKS
from ectorch.storage.files import save

FOLDERS = (Path("results/mnist"), Path("results/cifar10"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    made = provenance()
    differing, same, images = [], [], {}
    for folder in FOLDERS:
        for point in json.loads((folder / "results.json").read_text())["points"]:
            if point["data"] not in images:
                images[point["data"]] = load(point["data"]).test
            for run in point["runs"]:
                path = folder / f"{point['curve']}-{point['name']}-seed-{run['seed']}.ect"
                model = ec.load_model(NETWORKS[point["network"]](), path).eval()
                seen = evaluate(model, images[point["data"]])
                as_before = (
                    path.stat().st_size == run["file_bytes"]
                    and seen.error_percent == run["decoded_error_percent"]
                    and seen.predictions_sha256 == run["predictions_sha256"]
                    and save(ec.load_file(path)) == path.read_bytes()
                )
                (same if as_before else differing).append(str(path))
                print(path, f"{seen.error_percent:.2f} %", "same" if as_before else "DIFFERS")
    write_results(arguments.out, made | {"same": same, "differing": differing})
    print(f"{len(same)} of {len(same) + len(differing)} files as before")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
