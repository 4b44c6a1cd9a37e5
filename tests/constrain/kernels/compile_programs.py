"""Compile every program for a Hopper GPU, which need not be there; say what each is made of."""

from __future__ import annotations

import json
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ectorch.constrain.kernels import programs

TARGET = GPUTarget("cuda", 90, 32)
GRID = {"size": "i64", "low": "i32", "high": "i32", "least": "fp32", "most": "fp32"}
MANY = {"table": "*i64", "bounds": "*fp64", "programs": "*i64"}
ELEMENTS = {
    "fp32": tl.float32,
    "bf16": tl.bfloat16,
    "fp16": tl.float16,
    "fp64": tl.float64,
}


def cases(kind):
    """Program, types of its arguments, constants."""
    own, element = f"*{kind}", ELEMENTS[kind]
    blocks = {"BLOCK": 1024, "BLOCKS": 16}
    grid = GRID | {"weight": own, "log_gaps": own}
    for noisy in (False, True):
        noise = {"noise": "*i16" if noisy else own}
        given = {"NOISY": noisy, "BLOCK": 1024}
        yield programs.round_block, grid | noise | {"out": "*bf16"}, given
        summed = grid | noise | {"grad": own, "partials": "*fp64"}
        yield programs.by_step_block, summed, given | blocks
    reduced = {"partials": "*fp64", "count": "i32", "log_gaps": own, "out": own}
    reduced |= {"least": "fp32", "most": "fp32"}
    yield programs.sum_to_log_gaps, reduced, {"DIVIDE": True, "BLOCK": 256}
    yield programs.moments_block, grid | {"mean": own, "variance": own}, {"BLOCK": 1024}
    back = grid | {"by_mean": own, "by_variance": own, "out": own, "partials": "*fp64"}
    yield programs.moments_back_block, back, blocks | {"MEAN": True, "VARIANCE": True}
    counted = MANY | {"partials": "*i64", "wrongs": "*i32"}
    constants = {"ELEMENT": element, "BINS": 32, "BLOCK": 32, "BLOCKS": 64}
    yield programs.count_blocks, counted, constants
    charged = {"scales": "*fp64", "lengths": "*fp32", "starts": "*i64", "grad": "*fp64"}
    yield programs.charge_blocks, MANY | charged | {"out": own}, blocks | {"ELEMENT": element}
    noisy = {"spread": own, "floor": own, "seed": "*i64", "out": own, "size": "i64"}
    yield programs.deviate_block, noisy, {"BLOCK": 1024}
    yield programs.deviate_back_block, noisy | {"grad": own}, {"BLOCK": 1024}
    if kind == "fp32":
        found = {"partials": "*i64", "wrongs": "*i32", "firsts": "*i64", "counts": "*fp64"}
        yield programs.sum_counts, found, {"BINS": 32, "LEVELS": 64, "ROWS": 64}
        rows = {"counts": "*fp64", "out": "*fp64", "levels": "i32", "zero": "i32"}
        yield programs.isotonic_rows, rows, {"SIDE": 32}


def main():
    made = []
    for kind in ELEMENTS:
        for program, types, constants in cases(kind):
            names = program.arg_names
            source = ASTSource(
                fn=program,
                signature={n: "constexpr" if n in constants else types[n] for n in names},
                constexprs={(names.index(name),): value for name, value in constants.items()},
            )
            options = {"enable_fp_fusion": False}
            text = triton.compile(source, target=TARGET, options=options).asm["ptx"]
            made.append(
                {
                    **{"program": program.__name__, "kind": kind},
                    "rounded_quotients": "div.full.f32" not in text,
                }
            )
    sys.stdout.write(json.dumps(made))


if __name__ == "__main__":
    main()
