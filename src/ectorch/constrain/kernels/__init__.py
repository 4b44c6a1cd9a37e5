"""What a step does with every weight: plain in torch, compiled for the CPU, in Triton on CUDA.

`plain` says what each kernel computes; the others give the same numbers, and `ops` chooses.
"""
