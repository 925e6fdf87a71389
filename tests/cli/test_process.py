"""The settings of the process of a command, each seen in a process of its own."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the settings are those of glibc and libgomp")
COMMAND = """
import sys
from mdqe.cli import main

sys.argv = ["mdqe", "--version"]
try:
    main()
except SystemExit:
    pass
"""
NAMES = ("OMP_", "GOMP_", "KMP_", "MALLOC_", "GLIBC_")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code without the settings of this process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NAMES)}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, check=True, timeout=120
    )


@pytest.mark.parametrize("given, expected", [({}, "GOMP_SPINCOUNT = '1500'"), ({"GOMP_SPINCOUNT": "7"}, "= '7'")])
def test_openmp_reads_how_long_threads_wait(given, expected):
    """libgomp reports what it has read; a value of the user stays."""
    shown = run(COMMAND + "import torch; torch.ones(1)", OMP_DISPLAY_ENV="VERBOSE", **given).stderr
    lines = [line for line in shown.splitlines() if "GOMP_SPINCOUNT" in line]
    assert lines and all(expected in line for line in lines), shown


def test_a_wait_policy_of_the_user_stays():
    result = run(COMMAND + "import os; print('GOMP_SPINCOUNT' in os.environ)", OMP_WAIT_POLICY="PASSIVE")
    assert result.stdout.splitlines()[-1] == "False"


def test_freed_memory_is_kept():
    """A freed block of 64 MB has no page faults when it is allocated again, unless the user has set a limit."""
    measure = """
import ctypes, resource

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    pages = 2**26 // os.sysconf("SC_PAGE_SIZE")
    kept = run(COMMAND + measure).stdout.splitlines()[-2:]
    returned = run(COMMAND + measure, MALLOC_TRIM_THRESHOLD_="131072").stdout.splitlines()[-2:]
    assert int(kept[0]) > pages / 1000  # more than none, also with huge pages
    assert int(kept[1]) < int(kept[0]) / 10
    assert int(returned[1]) > int(returned[0]) / 2
