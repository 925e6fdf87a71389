"""New virtual environments, and the packages that are installed in them."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = sysconfig.get_path("purelib")
REPORT = """
import json, torch, mdqe, mdqe.ops.kernels as kernels
from mdqe.ops import deform_attn, kernel_status
out = deform_attn(torch.ones(1, 4, 1, 2), ((2, 2),), torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1))
print(json.dumps({"result": out.flatten().tolist(), "cpu": kernel_status().cpu, "cuda": kernel_status().cuda,
                  "compiled": kernel_status().compiled, "package": str(kernels.PACKAGE), "torch": torch.__version__}))
"""


def run(*command: object, cwd: Path | str = "/", **environment: str) -> str:
    """The standard output of a command that must succeed. It does not run in the checkout."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CUDA_HOME")} | environment
    done = subprocess.run([*map(str, command)], env=variables, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """The source package, and a wheel with the CPU kernels that is built from it as for a release."""
    run(sys.executable, "-m", "build", "--no-isolation", "-o", folder, ROOT, MDQE_BUILD_EXT="cpu")
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


class Environment:
    """A virtual environment; `with_torch` adds the packages of the environment that runs the tests."""

    def __init__(self, folder: Path, with_torch: bool = True) -> None:
        run(sys.executable, "-m", "venv", folder)
        self.programs = folder / "bin"
        self.python = self.programs / "python"
        self.site = Path(run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        if with_torch:
            self.lend()

    def lend(self) -> None:
        """Add all packages but this one, which would take precedence over an editable install."""
        lent = self.site.parent / "lent"
        lent.mkdir()
        for entry in Path(SITE).iterdir():
            if "mdqe" not in entry.name:
                (lent / entry.name).symlink_to(entry)
        (self.site / "lent.pth").write_text(f"{lent}\n")

    def install(self, *arguments: object, **environment: str) -> str:
        """Install with pip, without dependencies."""
        return run(self.python, "-m", "pip", "install", "-v", "--no-deps", *arguments, **environment)

    def report(self, **environment: str) -> dict:
        """The result of the operator in this environment, and the kernels that computed it."""
        return json.loads(run(self.python, "-c", REPORT, **environment).splitlines()[-1])
