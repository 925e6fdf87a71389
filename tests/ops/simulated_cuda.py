"""Build CUDA sources for the CPU, where the threads of a block are fibers; see cuda_on_cpu/."""

import re
import subprocess
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent / "cuda_on_cpu"
ROOT = HERE.parents[2]


def as_cpp(source: str) -> str:
    """Convert CUDA to C++: only shared memory and launches differ."""
    source, found = re.subn(r"extern __shared__ \S+ unsigned char memory\[\];", "auto* memory = SHARED;", source)
    source, launches = re.subn(
        r"(\w+_kernel(?:<[\w, ]+>)?)\s*<<<(.*?)>>>\(\s*(.*?)\);",
        r"simulated::launch(\2, [&] { \1(\3); });",
        source,
        flags=re.DOTALL,
    )
    assert found >= 1 and launches >= 1
    return source.replace("SHARED", "simulated::shared_memory")


def build(folder: Path, cuda_sources: list[Path], *cpp_sources: Path) -> Path:
    """Build a shared library from CUDA sources, C++ sources and the fibers."""
    converted = [folder / f"{source.stem}.cpp" for source in cuda_sources]
    for source, target in zip(cuda_sources, converted, strict=True):
        target.write_text(as_cpp(source.read_text()))
    torch_root = Path(torch.__file__).parent
    flags = [f"-I{HERE}", f"-I{ROOT}/csrc/cuda", f"-I{torch_root}/include", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    flags += ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-ffp-contract=off"]
    link = [f"-L{torch_root}/lib", "-lc10", "-ltorch", "-ltorch_cpu"]
    library = folder / "simulated.so"
    sources = [*converted, *cpp_sources, HERE / "fibers.cpp"]
    subprocess.run(["g++", *flags, *map(str, sources), *link, "-o", str(library)], check=True)
    return library
