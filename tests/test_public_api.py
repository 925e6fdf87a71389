"""The public names of the package, and the cost of importing them."""

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
# Others write against these names; removing one requires a new version of the library.
PUBLIC = {
    "mdqe": "MDQE MDQEConfig QueryInitializer FrameQueries O2IDecoderLayer LayerValues Decoder DecoderState "
    "TemporalCrossAttention InterInstanceMaskLoss ClipTargets "
    "ClipTracker Linker link VideoInstances MDQEImageProcessor "
    "checkpoint data errors evaluation export inference losses ops training video",
    "mdqe.data": "VideoClips PseudoClips SyntheticClips ClipAugmentation ClipSource MixedClips StepSampler collate "
    "map_categories generate draw_video demo_scene write_set Difficulty CATEGORIES",
    "mdqe.evaluation": "best_threshold evaluate evaluate_coco sweep_thresholds",
    "mdqe.export": "export_model",
    "mdqe.inference": "VideoSession ClipTracker Linker MDQEImageProcessor link",
    "mdqe.losses": "Criterion DynamicMatcher InterInstanceMaskLoss PlainMaskLoss scale_targets",
    "mdqe.ops": "KernelStatus MultiScaleDeformableAttention deform_attn deform_attn_fused kernel_status ms_deform_attn",
    "mdqe.training": "Trainer TrainingStep NonFiniteLossError StepDecay MovingAverage adamw freeze initial_model "
    "recompute_activations replay synthetic_validation annotated_validation",
}


def loaded_by(statement: str, tmp_path) -> set[str]:
    """The top-level packages and modules of mdqe that a statement loads in a new interpreter."""
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    names = done.stdout.split()
    return {name for name in names if "." not in name or name.startswith("mdqe.")}


def test_importing_the_package_loads_no_large_dependency(tmp_path):
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
        ("from mdqe import ClipTracker", REST | {"torchvision"}),
        ("from mdqe import VideoInstances", REST | {"torchvision", "mdqe.ops.kernels"}),
        ("from mdqe.checkpoint import convert_official", REST),
        ("from mdqe.ops import deform_attn", REST | {"scipy"}),
        ("from mdqe.losses import InterInstanceMaskLoss", REST | {"scipy", "torchvision", "mdqe.ops.kernels"}),
        ("from mdqe.evaluation import evaluate", REST | {"torch", "torchvision"}),
        ("from mdqe import TemporalCrossAttention, O2IDecoderLayer", REST),
        ("from mdqe import QueryInitializer", REST),
        ("from mdqe import MDQE", {"av", "supervision"}),
        ("from mdqe import MDQEImageProcessor", {"timm", "av", "supervision", "transformers", "mdqe.model"}),
    ],
)
def test_parts_load_alone(statement, absent, tmp_path):
    assert loaded_by(statement, tmp_path) & absent == set()


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package):
    module = importlib.import_module(package)
    assert set(module.__all__) - {"__version__"} == set(PUBLIC[package].split())
    assert dir(module) == sorted(module.__all__) or not hasattr(module, "_HOME")
    for name in module.__all__:
        part = getattr(module, name)
        if callable(part):
            assert (part.__name__, part.__doc__ is None) == (name, False)
            assert part.__module__.startswith("mdqe.")


@pytest.mark.parametrize("package", PUBLIC)
def test_unknown_names(package):
    with pytest.raises(AttributeError, match=rf"module '{package}' has no attribute 'Tracker'"):
        importlib.import_module(package).Tracker  # noqa: B018


# Others write against these signatures; changing one requires a new version of the library.
SIGNATURES = {
    "MDQE.segment": "(self, video, *, score_threshold=0.3, multi_label=False, output_size=None, progress=False, "
    "cuda_graphs=False)",
    "MDQE.stream": "(self, frames, *, score_threshold=0.3, multi_label=False, output_size=None, cuda_graphs=False)",
    "MDQE.start": "(self, *, score_threshold=0.3, multi_label=False, output_size=None, by_window=False, "
    "encoder_batch_size=1)",
    "MDQE.resume": "(self, path)",
    "inference.session.VideoSession.push": "(self, frame)",
    "inference.session.VideoSession.flush": "(self)",
    "inference.session.VideoSession.save": "(self, path)",
    "inference.session.VideoSession.state_dict": "(self)",
    "inference.session.VideoSession.load_state_dict": "(self, state)",
    "VideoInstances.rows": "(self, track_ids, scores, labels)",
    "ClipTracker.update": "(self, frame_indices, class_scores, mask_logits, embeddings=None)",
    "ClipTracker.flush": "(self, last=False)",
    "ClipTracker.take_frames": "(self, end)",
    "ClipTracker.state_dict": "(self)",
    "ClipTracker.load_state_dict": "(self, state)",
    "InterInstanceMaskLoss.forward": "(self, mask_logits, masks, boxes=None, clip_index=None, *, matched=None, "
    "normalizer=None, reduction='mean')",
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


def test_imports_in_the_documentation():
    """They work, and a package with public names is imported by these names, not by its modules."""
    root = Path(__file__).resolve().parents[1]
    texts = [path.read_text() for path in (root / "README.md", *sorted((root / "docs").rglob("*.md")))]
    found = {line for text in texts for line in re.findall(r"^(?:\| `)?(from mdqe[\w.]* import [\w, ]+)", text, re.M)}
    assert len(found) >= 7
    for line in sorted(found):
        exec(line, {})
        package = re.match(r"from (mdqe\.\w+)\.", line)
        assert not package or package[1] not in PUBLIC, line


def test_version_is_that_of_the_distribution():
    metadata = pytest.importorskip("importlib.metadata")
    try:
        version = metadata.version("mdqe")
    except metadata.PackageNotFoundError:
        pytest.skip("mdqe runs from its source tree, it is not installed")
    assert version == mdqe.__version__
