"""The memory of a process that streams 3,000 frames: `python -m pytest -m slow tests/inference/test_long_stream.py`."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="this system does not report the memory of a process")

FRAMES, EARLY, SIZE = 3000, 300, (48, 64)
PROGRAM = f"""
import json, resource
import torch
from mdqe import MDQE
from mdqe.data import draw_video

torch.set_num_threads(1)
model = MDQE.from_pretrained("mdqe:tiny", test_shorter_edge=None, clip_stride=3)
scene = draw_video(3, frames=24, size={SIZE}).frames
order = [*range(24), *range(22, 0, -1)]


def camera():
    for number in range({FRAMES}):
        yield scene[order[number % len(order)]].copy()


peaks, frames, tracks, instances = {{}}, 0, set(), 0
for window in model.stream(camera(), score_threshold=0.1):
    frames, instances = frames + window.num_frames, instances + len(window)
    tracks.update(window.track_ids.tolist())
    if frames in ({EARLY}, {FRAMES}):
        peaks[frames] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([peaks, frames, len(tracks), instances]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_peak_of_3000_frames_is_that_of_300(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr
    peaks, frames, tracks, instances = json.loads(done.stdout)
    unit = 1 if sys.platform == "darwin" else 1024
    early, late = (peaks[str(number)] * unit / 2**20 for number in (EARLY, FRAMES))
    print(f"peak after {EARLY} frames: {early:.0f} MiB, after {FRAMES}: {late:.0f} MiB; {tracks} tracks")
    assert frames == FRAMES
    assert tracks > 3 and instances > 300
    stored = (FRAMES - EARLY) * SIZE[0] * SIZE[1] * 3 / 2**20  # if the frames were kept; their features are larger
    assert stored > 20
    assert late - early < 12
