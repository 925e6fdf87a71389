"""Builds the optional compiled kernels against the installed torch. The package also works without them.

Everything else is in pyproject.toml. MDQE_BUILD_EXT selects what is built: "auto" (the default) builds whatever can be
built, "cpu" leaves CUDA out, "0" builds nothing, and "1" makes a failed build stop the installation. The outcome and
its reason are written to mdqe/_build.json for `mdqe.ops.kernel_status()`, because pip hides the output of a build.
"""

import importlib.util
import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MODE = os.environ.get("MDQE_BUILD_EXT", "auto")
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # LibTorch's stable ABI of torch 2.10
ARCHITECTURES = "8.0;8.6;9.0+PTX"  # used if the machine has no GPU
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]


def import_torch():
    """Import the user's torch, even from pip's isolated build. Raises ImportError with the reason."""
    if importlib.util.find_spec("torch") is None:
        for folder in dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]):
            site.addsitedir(folder)
    try:
        import torch
    except Exception as error:  # a broken torch must not break the installation without kernels
        raise ImportError(f"torch could not be imported ({error}); install torch first, then mdqe again") from error
    release = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if release < (2, 10):
        raise ImportError(f"torch {torch.__version__} is older than 2.10")
    return torch


def find_cuda_home():
    """Find a complete CUDA toolkit. Raises RuntimeError with the reason.

    The nvcc on the PATH can be a wrapper outside the toolkit, so it is asked for the toolkit's location.
    """
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [named] if named else ["/usr/local/cuda"]
    nvcc = shutil.which("nvcc")
    if not named and nvcc:
        candidates.insert(0, str(Path(nvcc).resolve().parents[1]))
        dry = subprocess.run([nvcc, "-dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
        top = re.search(r"^#\$ TOP=(.*)$", dry.stderr, re.MULTILINE)
        if top:
            candidates.insert(0, str(Path(top[1].strip())))
    program = "nvcc.exe" if os.name == "nt" else "nvcc"
    runtime = ("lib64/libcudart.so", "lib/libcudart.so", "lib/x64/cudart.lib", "targets/*/lib/libcudart.so")
    for home in map(Path, candidates):
        if (home / "bin" / program).exists() and any(any(home.glob(pattern)) for pattern in runtime):
            return home.resolve()
    raise RuntimeError(f"no CUDA toolkit with nvcc and libcudart at {', '.join(candidates)}; set CUDA_HOME")


def check_cuda(torch):
    """Point torch's builder at the CUDA toolkit. Raises RuntimeError if the toolkit does not fit this torch."""
    if torch.version.cuda is None:
        raise RuntimeError("this torch has no CUDA")
    home = find_cuda_home()
    nvcc = subprocess.run([str(home / "bin" / "nvcc"), "--version"], capture_output=True, text=True, check=False)
    release = re.search(r"release (\d+)\.", nvcc.stdout)
    if nvcc.returncode or not release:
        raise RuntimeError(f"{home}/bin/nvcc does not run: {(nvcc.stderr or nvcc.stdout).strip()[:200]}")
    if release[1] != torch.version.cuda.split(".")[0]:
        raise RuntimeError(f"nvcc at {home} is CUDA {release[1]}, torch was built with CUDA {torch.version.cuda}")
    os.environ["CUDA_HOME"] = str(home)
    if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
        os.environ["TORCH_CUDA_ARCH_LIST"] = ARCHITECTURES


def sources(*patterns):
    return sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / "csrc").glob(pattern))


def extensions(notes):
    """List the extensions to build. Reasons for leaving one out go to `notes`."""
    if MODE == "0":
        notes.update(rle="MDQE_BUILD_EXT=0", cpu="MDQE_BUILD_EXT=0", cuda="MDQE_BUILD_EXT=0")
        return []
    flags = ["/O2"] if os.name == "nt" else ["-O3", "-g0", "-fvisibility=hidden"]
    link = []
    if os.environ.get("MDQE_SANITIZE") == "1":
        flags, link = ["-O1", "-fvisibility=hidden", *SANITIZE], SANITIZE[:1]
    options = {"py_limited_api": True, "extra_link_args": link}
    as_numpy = [] if os.name == "nt" else ["-ffp-contract=off"]  # no fused operations, which round differently
    found = [
        Extension(
            "mdqe._C_rle",
            sources("rle/*.cpp"),
            depends=sources("rle/*.h"),
            language="c++",
            extra_compile_args=[*flags, *as_numpy],
            **options,
        )
    ]  # this one does not need torch
    try:
        torch = import_torch()
    except ImportError as error:
        notes.update(cpu=str(error), cuda=str(error))
        if MODE == "1":
            raise
        return found
    cuda_problem = None
    if MODE == "cpu":
        cuda_problem = "MDQE_BUILD_EXT=cpu"
    else:
        try:
            check_cuda(torch)
        except (RuntimeError, OSError) as error:
            cuda_problem = str(error)
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    headers = sources("*.h", "cpu/*.h", "cpu/*.inl", "cuda/*.h", "cuda/*.cuh")
    found.append(
        CppExtension(
            "mdqe._C_cpu",
            sources("*.cpp", "cpu/*.cpp"),
            depends=headers,
            extra_compile_args=[*flags, TARGET],
            **options,
        )
    )
    if cuda_problem is None:
        found.append(
            CUDAExtension(
                "mdqe._C_cuda",
                sources("cuda/*.cu"),
                depends=headers,
                py_limited_api=True,
                extra_compile_args={
                    "cxx": [*flags, TARGET, "-DUSE_CUDA"],
                    "nvcc": ["-O3", TARGET, "-DUSE_CUDA", "--Werror=all-warnings"],
                },
            )
        )
    else:
        notes["cuda"] = cuda_problem
    return found


def keep_notes(notes, command):
    """Write the notes into the package that `command` builds."""
    inplace = getattr(command, "inplace", False) or getattr(command, "editable_mode", False)
    folder = (ROOT if inplace else Path(command.build_lib)) / "mdqe"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_build.json").write_text(json.dumps(notes, indent=1) + "\n")
    for device, note in notes.items():
        print(f"mdqe: {device} kernels: {note}", file=sys.stderr)


def make_build_ext(notes):
    """Create a build_ext that builds each extension separately and, except in mode "1", continues after a failure."""
    try:
        from torch.utils.cpp_extension import BuildExtension as Base
    except Exception:
        Base = build_ext

    class BuildKernels(Base):
        def run(self):
            built, compiler = [], self.compiler
            for extension in list(self.extensions or []):
                device = extension.name.rpartition("_")[2]
                self.extensions, self.compiler = [extension], compiler
                try:
                    super().run()
                except Exception as error:
                    if MODE == "1":
                        raise
                    notes[device] = f"the build failed: {self.reason(error)}"
                else:
                    built.append(extension)
                    notes[device] = (
                        "built" if device == "rle" else f"built with torch {sys.modules['torch'].__version__}"
                    )
            self.extensions = built
            keep_notes(notes, self)

        def reason(self, error):
            first = (str(error) or type(error).__name__).strip().splitlines()[0]
            return f"{first[:300]} (run the install with -v to see the compiler's output)"

        def get_export_symbols(self, ext):
            return []  # the libraries register operators when loaded; they are not Python modules

    return BuildKernels


class BuildPackage(build_py):
    """Writes the notes also if there is nothing to compile."""

    def run(self):
        super().run()
        keep_notes(notes, self)


notes = {}
setup(
    ext_modules=extensions(notes),
    cmdclass={"build_ext": make_build_ext(notes), "build_py": BuildPackage},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
