"""What `import mdqe` offers, and how little it costs."""

import importlib
import inspect
import operator
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mdqe

HEAVY = ("torch", "torchvision", "timm", "av", "scipy", "numpy", "safetensors", "huggingface_hub", "einops")
PUBLIC = ("MDQE", "MDQEConfig", "QueryInitializer", "O2IDecoderLayer", "TemporalCrossAttention",
          "InterInstanceMaskLoss", "ClipTargets", "ClipTracker", "VideoInstances", "MDQEImageProcessor")  # fmt: skip


def loaded_by(statement: str, tmp_path) -> set[str]:
    """Top-level packages and mdqe's own modules that are loaded after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    names = done.stdout.split()
    return {name for name in names if "." not in name or name.startswith("mdqe.")}


def test_importing_the_package_loads_nothing_heavy(tmp_path):
    loaded = loaded_by("import mdqe", tmp_path)
    assert loaded.isdisjoint(HEAVY)
    assert {name for name in loaded if name.startswith("mdqe")} == {"mdqe"}


def test_the_configuration_needs_no_torch(tmp_path):
    assert loaded_by("from mdqe import MDQEConfig; MDQEConfig.preset('r50_ovis_360')", tmp_path).isdisjoint(HEAVY)


def test_importing_the_package_is_quick(tmp_path):
    def seconds(code):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
        return time.perf_counter() - start

    bare = min(seconds("pass") for _ in range(3))
    assert min(seconds("import mdqe") for _ in range(3)) < bare + 0.5


REST = {"timm", "av", "huggingface_hub", "supervision", "mdqe.model"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("from mdqe import ClipTracker", REST | {"torchvision", "mdqe.ops.kernels"}),
        ("from mdqe import VideoInstances", REST | {"torchvision", "mdqe.ops.kernels"}),
        ("from mdqe.checkpoint import convert_official", REST),
        ("from mdqe.ops import deform_attn", REST | {"scipy"}),
        ("from mdqe.evaluation import evaluate", REST | {"torch", "torchvision"}),
        ("from mdqe import TemporalCrossAttention, O2IDecoderLayer", REST),
        ("from mdqe import QueryInitializer", REST),
        ("from mdqe import MDQE", {"av", "supervision"}),
        ("from mdqe import MDQEImageProcessor", {"timm", "av", "supervision", "transformers", "mdqe.model"}),
    ],
)
def test_parts_load_alone(statement, absent, tmp_path):
    assert loaded_by(statement, tmp_path) & absent == set()


def test_public_names():
    assert set(PUBLIC) <= set(mdqe.__all__)
    assert dir(mdqe) == sorted(mdqe.__all__)
    for name in mdqe.__all__:
        assert getattr(mdqe, name) is not None
    for name in PUBLIC:
        part = getattr(mdqe, name)
        assert part.__name__ == name
        assert part.__doc__
        assert part.__module__.startswith("mdqe.")


# Others write against these; a change here is a change of the library's version.
SIGNATURES = {
    "MDQE.segment": "(self, video, *, score_threshold=0.3, multi_label=False, output_size=None, progress=False)",
    "MDQE.stream": "(self, frames, *, score_threshold=0.3, multi_label=False, output_size=None)",
    "MDQE.start": "(self, *, score_threshold=0.3, multi_label=False, output_size=None, by_window=False, "
    "frames_at_once=1)",
    "MDQE.resume": "(self, path)",
    "inference.session.VideoSession.push": "(self, frame)",
    "inference.session.VideoSession.flush": "(self)",
    "inference.session.VideoSession.save": "(self, path)",
    "ClipTracker.update": "(self, frame_indices, class_scores, mask_logits, embeddings)",
    "ClipTracker.flush": "(self, last=False)",
    "ClipTracker.take_frames": "(self, end)",
    "ClipTracker.state_dict": "(self)",
    "ClipTracker.load_state_dict": "(self, state)",
    "InterInstanceMaskLoss.forward": "(self, mask_logits, masks, boxes=None, clip_index=None, *, matched=None, "
    "normalizer=None)",
    "MDQE.forward": "(self, frames=None, sizes=None, association_window=None, *, pixel_values=None)",
    "MDQEImageProcessor.__call__": "(self, videos, *, dtype=torch.float32)",
    "MDQEImageProcessor.post_process_instance_segmentation": "(self, outputs, threshold=0.5, target_sizes=None, "
    "return_coco_annotation=False, return_binary_maps=False)",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    importlib.import_module("mdqe.inference.session")
    function = operator.attrgetter(name)(mdqe)
    signature = inspect.signature(function)
    plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    bare = str(signature.replace(parameters=plain, return_annotation=signature.empty))
    assert bare == SIGNATURES[name]


def test_imports_of_the_documentation_work():
    root = Path(__file__).resolve().parents[1]
    texts = [path.read_text() for path in (root / "README.md", *sorted((root / "docs").rglob("*.md")))]
    found = {line for text in texts for line in re.findall(r"^(?:\| `)?(from mdqe[\w.]* import [\w, ]+)", text, re.M)}
    assert len(found) >= 7
    for line in found:
        exec(line, {})


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'mdqe' has no attribute 'Tracker'"):
        mdqe.Tracker  # noqa: B018


def test_version_is_that_of_the_distribution():
    metadata = pytest.importorskip("importlib.metadata")
    try:
        version = metadata.version("mdqe")
    except metadata.PackageNotFoundError:
        pytest.skip("mdqe runs from its source tree, it is not installed")
    assert version == mdqe.__version__
