"""Calls every kernel of ours once or twice, to be run under compute-sanitizer.

Small odd shapes, forward and backward, in float32, bfloat16 and float16. The results are checked elsewhere; here only
memory accesses count, so the library's convolutions are left out.
"""

import matrix
import torch


def main():
    cases = [case for case in matrix.CASES if case.exact and (case.short or case.backend == "implicit_gemm")]
    for i, case in enumerate(cases):
        for dtype in (torch.float32, [torch.bfloat16, torch.float16][i % 2 and matrix.ON_CUDA]):
            case.run(case.tensors(dtype, format=[torch.contiguous_format, torch.channels_last][i // 2 % 2]))
    if matrix.ON_CUDA:
        torch.cuda.synchronize()
    print(f"{len(cases)} cases, two dtypes each")


if __name__ == "__main__":
    main()
