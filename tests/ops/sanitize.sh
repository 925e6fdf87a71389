#!/bin/sh
# Builds what is compiled for the CPU with AddressSanitizer and UndefinedBehaviorSanitizer, apart from the usual build,
# and runs the tests of the operator and of run lengths on it. Usage: tests/ops/sanitize.sh [python]. Needs gcc and an installed torch; takes a few minutes.
set -eu
cd "$(dirname "$0")/../.."
python=${1:-python}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
MDQE_SANITIZE=1 MDQE_BUILD_EXT=cpu "$python" setup.py -q build --build-base "$out" --build-lib "$out/lib"
# Leaks are not looked for: the interpreter and torch keep memory until the process ends.
export ASAN_OPTIONS=detect_leaks=0:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=2
export PYTHONPATH="$out/lib"
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
tests=$PWD/tests
cd "$out"  # or the package beside the tests would be imported
"$python" -c "from mdqe.ops import kernels; print(kernels.PACKAGE, kernels.kernel_status())"
"$python" -m pytest -p no:cacheprovider "$tests/ops/test_attention_kernels.py" \
    "$tests/ops/test_attention_registration.py" -k "not compile"
"$python" -m pytest -p no:cacheprovider "$tests/evaluation/test_overlap.py" "$tests/results/test_rle.py" \
    -k "not well_under_a_second"
