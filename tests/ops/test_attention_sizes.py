"""Empty tensors whose sizes have a product beyond 64 bits: an error, never a crash of the process."""

import subprocess
import sys

import pytest
import torch

from mdqe.ops import kernel_status

pytestmark = pytest.mark.skipif("cpu" not in kernel_status().compiled, reason="the CPU kernels are not compiled")

CALL = """
import torch, mdqe.ops
from mdqe.ops import kernel_status
kernel_status()
heads, channels = {heads}, {channels}
def empty(*size):  # some versions of PyTorch refuse these sizes with ordinary strides
    return torch.empty(0).as_strided(size, (0,) * len(size))
value = empty(0, 1, heads, channels)
locations, weights = empty(0, 0, heads, 1, {points}, 2), empty(0, 0, heads, 1, {points})
try:
    print(tuple(torch.ops.mdqe.deform_attn(value, [1, 1, 0], locations, weights).shape))
except RuntimeError as error:
    print(str(error).splitlines()[0])
"""


@pytest.mark.parametrize(
    ("heads", "channels", "points"),
    [
        (2**32, 2**32, 1),
        (2**33, 2**31, 1),
        (2**16, 2**48, 1),
        (2**62, 4, 1),
        (2**31, 1, 1),
        (1, 2**31, 1),
        (2**16, 1, 2**16),
        (1, 1, 2**62),
    ],
)
def test_products_beyond_64_bits_are_an_error(heads, channels, points, tmp_path):
    code = CALL.format(heads=heads, channels=channels, points=points)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-400:]  # −8 is SIGFPE
    assert "below 2^31" in done.stdout


def test_the_largest_empty_sizes_pass():
    value = torch.empty(0, 1, 2**10, 2**10)
    locations, weights = torch.empty(0, 3, 2**10, 1, 4, 2), torch.empty(0, 3, 2**10, 1, 4)
    assert torch.ops.mdqe.deform_attn(value, [1, 1, 0], locations, weights).shape == (0, 3, 2**20)
