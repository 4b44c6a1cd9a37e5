"""The peer's side of the NNCodec curves: run by an interpreter that has nncodec, not ectorch.

    pip install torch==2.13.0
    pip install --no-deps nncodec==2.1.3     # compiles for two minutes
    pip install pandas opencv-python-headless scikit-learn tqdm h5py

``--no-deps`` because it asks for numpy below 2 and torchvision; it runs without either, with
torchvision replaced by a stub while it is imported.

It first says its versions on stdout, a line of JSON. Then it is told on stdin, a line of JSON a
task: ``weights``, an npz file of float32 arrays; ``arguments`` of `nncodec.nnc.compress`, which is
what `nncodec.nn.encode` calls with fewer of them; ``decoded``, where to write the arrays that come
back. It answers each with a line: ``bytes`` of the stream, ``encode_seconds``, ``decode_seconds``.

Where the arguments have ``ioq`` (inference-optimised quantisation), arrays to be judged are written
to ``decoded`` on the way, each told with a line ``{"judge": true}``; what is read then is how good
they are, a number.
"""

import importlib.metadata
import json
import os
import sys
import time
from unittest.mock import MagicMock

import numpy as np

STUBS = ("torchvision", "torchvision.datasets", "torchvision.models", "torchvision.transforms")
VERSIONS = ("nncodec", "numpy", "torch")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what nncodec prints is no answer
    sys.modules.update({name: MagicMock() for name in STUBS})
    from nncodec import nnc

    def answer(line: dict) -> None:
        print(json.dumps(line), file=answers)

    answer({name: importlib.metadata.version(name) for name in VERSIONS})
    while line := sys.stdin.readline():
        task = json.loads(line)
        with np.load(task["weights"]) as file:
            arrays = {name: file[name] for name in file.files}
        arguments = task["arguments"]
        if arguments.get("ioq"):
            arguments["model_executer"] = judge(task["decoded"], answer)
        start = time.perf_counter()
        stream = nnc.compress(arrays, bitstream_path=None, return_bitstream=True, **arguments)
        middle = time.perf_counter()
        decoded = nnc.decompress(bytearray(stream))  # bytes would be taken for a path
        end = time.perf_counter()
        np.savez(task["decoded"], **decoded)
        answer(
            {
                "bytes": len(stream),
                "encode_seconds": round(middle - start, 3),
                "decode_seconds": round(end - middle, 3),
            }
        )


def judge(path, answer):
    from nncodec.nnc_core.nnr_model import ModelExecute

    class Judge(ModelExecute):
        def eval_model(self, parameters, verbose=False):
            np.savez(path, **parameters)
            answer({"judge": True})
            return {"good": json.loads(sys.stdin.readline())}

        def has_eval(self):
            return True

        def has_test(self):
            return False

        def has_tune_ft(self):
            return False

        def has_tune_lsa(self):
            return False

    return Judge()


if __name__ == "__main__":
    main()
