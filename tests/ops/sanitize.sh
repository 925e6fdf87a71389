#!/bin/sh
# Builds the CPU libraries with AddressSanitizer and UndefinedBehaviorSanitizer, outside the usual build, and runs the
# tests of the operators, of run lengths and of the linker on them. Needs gcc and an installed torch; takes a few minutes.
# Usage: tests/ops/sanitize.sh [python]
set -eu
cd "$(dirname "$0")/../.."
python=${1:-python}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
MDQE_SANITIZE=1 MDQE_BUILD_EXT=cpu "$python" setup.py -q build --build-base "$out" --build-lib "$out/lib"
# Leak detection is off: the interpreter and torch keep memory until the process ends.
export ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=2
export PYTHONPATH="$out/lib"
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
tests=$PWD/tests
cd "$out"  # otherwise Python would import the package beside the tests
"$python" -c "from mdqe.ops import kernels; print(kernels.PACKAGE, kernels.kernel_status())"
"$python" -m pytest -p no:cacheprovider "$tests/ops/test_attention_kernels.py" \
    "$tests/ops/test_attention_registration.py" "$tests/ops/test_convolution.py" "$tests/inference/test_mask_iou.py" \
    -k "not compile and not for_others"
"$python" -m pytest -p no:cacheprovider "$tests/evaluation/test_overlap.py" "$tests/results/test_rle.py" \
    "$tests/inference/test_linker_compiled.py" -k "not well_under_a_second"
