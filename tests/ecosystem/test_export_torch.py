"""torch.export programs equal the model for any size and length, and run without this package."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import small_model

from mdqe.export import export_model
from mdqe.export.programs import ClipDecoder, FrameEncoder

TOLERANCE = 1e-5  # relative; the program samples with grid_sample, the model with its kernels
ELSEWHERE = """
import sys
sys.modules["mdqe"] = None  # importing it fails
import torch
from safetensors.torch import load_file, save_file
encoder, decoder = (torch.export.load(sys.argv[1] + f"/{part}.pt2").module() for part in ("encoder", "decoder"))
results = {}
with torch.no_grad():
    for name, frames in load_file(sys.argv[2]).items():
        encoding = encoder(frames=frames)
        for part, found in (("encoder", encoding), ("decoder", decoder(**encoding))):
            results |= {f"{name}.{part}.{key}": x.contiguous() for key, x in found.items()}
save_file(results, sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_levels": 3, "query_association": False},
        {"query_initialization": False, "decoder": "i2o"},
        {"temporal_cross_attention": False},
    ],
    ids=["published", "no association", "learned queries", "no temporal attention"],
)
def test_programs_run_without_the_package(tmp_path, options):
    model = small_model(decoder_layers=1, **options).float()
    errors = export_model(model, tmp_path, format="torch", source="a test")
    assert errors == {}
    described = json.loads((tmp_path / "model.json").read_text())
    least_height, least_width = described["encoder"]["least_size"]
    shapes = ((3, 80, 136), (1, 72, 200), (5, least_height, 131), (2, 128, least_width))
    clips = {str(i): torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8) for i, (n, h, w) in enumerate(shapes)}
    save_file(clips, tmp_path / "clips.safetensors")
    places = [str(tmp_path), str(tmp_path / "clips.safetensors"), str(tmp_path / "results.safetensors")]
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, *places], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    got = load_file(tmp_path / "results.safetensors")
    count = 0
    with torch.no_grad():
        for name, frames in clips.items():
            encoding = FrameEncoder(model)(frames)
            for part, found in (("encoder", encoding), ("decoder", ClipDecoder(model)(**encoding))):
                assert list(found) == [port["name"] for port in described[part]["outputs"]]
                for key, x in found.items():
                    error = float((got[f"{name}.{part}.{key}"] - x).norm() / x.norm())
                    assert error < TOLERANCE, (name, key, error)
                    count += 1
    assert count == len(got)
