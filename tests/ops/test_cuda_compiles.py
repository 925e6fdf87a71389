"""The CUDA sources compile with a toolkit, with or without a GPU, and warnings are errors."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA"),
    pytest.mark.skipif(
        not (shutil.which("nvcc") or Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin", "nvcc").exists()),
        reason="needs nvcc",
    ),
]
ROOT = Path(__file__).resolve().parents[2]


def test_kernels_compile_for_every_architecture(tmp_path: Path) -> None:
    """As the package builds them: for 8.0, 8.6 and 9.0, PTX for later ones, with `--Werror=all-warnings`."""
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    variables |= {"MDQE_BUILD_EXT": "1", "TORCH_CUDA_ARCH_LIST": "8.0;8.6;9.0+PTX"}
    command = [sys.executable, "setup.py", "build", "--build-base", str(tmp_path), "--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    log = done.stdout + done.stderr
    for flag in ("code=sm_80", "code=sm_86", "code=sm_90", "code=compute_90", "--Werror=all-warnings"):
        assert flag in log, flag
    assert list((tmp_path / "lib" / "mdqe").glob("_C_cuda.*so"))
