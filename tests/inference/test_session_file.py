"""Saved sessions: a resumed session continues with the same bits; invalid files and other models are rejected."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import moving_squares, small_model
from test_session import assert_same, pushed

from mdqe import MDQE
from mdqe.errors import InputError
from mdqe.inference.session import VideoSession, load_session


@pytest.fixture(scope="module")
def model() -> MDQE:
    return small_model()


RESUMED = {
    "frame by frame": ({}, {}, torch.float64),
    "float32": ({}, {"score_threshold": 0.1}, torch.float32),
    "bfloat16": ({}, {}, torch.bfloat16),
    "frames together": ({}, {"encoder_batch_size": 4}, torch.float32),
    "by window, other size": ({}, {"by_window": True, "output_size": (33, 44)}, torch.float32),
    "stride 3, pairs": ({"clip_stride": 3}, {"multi_label": True}, torch.float32),
    "stride of a whole clip": ({"clip_stride": 4}, {}, torch.float32),
    "with new ids": ({"relink": True}, {}, torch.float32),
    "learned queries": ({"query_initialization": False}, {}, torch.float32),
    "resized": ({"test_shorter_edge": 40, "test_longer_edge": 70}, {}, torch.float32),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_session_continues_with_the_same_bits(case, tmp_path):
    """Saved after any number of frames, it returns the results of a session that never stopped."""
    changes, options, dtype = RESUMED[case]
    options = {"score_threshold": 0.0, **options}
    model, video = small_model(**changes).to(dtype), moving_squares(15, (60, 90))
    session, expected = model.start(**options), []
    for t, results in enumerate(pushed(session, video)):
        expected.append(results)
        if t < len(video):
            session.save(tmp_path / f"{t}")
    assert sum(len(chunk) for results in expected for chunk in results) > 0
    for t in range(0, len(video), 3 if case == "frame by frame" else 7):
        resumed = model.resume(tmp_path / f"{t}")
        resumed.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / f"{t}").read_bytes()
        for results, wanted in zip(pushed(resumed, video[t + 1 :]), expected[t + 1 :], strict=True):
            for a, b in zip(results, wanted, strict=True):
                assert_same(a, b)


class OnHost(torch.Tensor):
    """A tensor that must not move to the device of the model."""

    def to(self, *args, **kwargs):
        raise AssertionError("moved")


def test_the_state_of_new_ids_stays_on_the_host():
    """NumPy reads it, and some devices have no float64."""
    model, video = small_model(relink=True), moving_squares(9, (60, 90))
    session = model.start(score_threshold=0.0)
    for frame in video[:6]:
        session.push(frame)
    state, resumed = session.state_dict(), model.start(score_threshold=0.0)
    linked = {name: x.as_subclass(OnHost) for name, x in state.tensors.items() if name.startswith("relinker.")}
    assert any(x.dtype == torch.float64 and x.numel() for x in linked.values())
    resumed.load_state_dict(state._replace(tensors=state.tensors | linked))
    for results, expected in zip(pushed(resumed, video[6:]), pushed(session, video[6:]), strict=True):
        for a, b in zip(results, expected, strict=True):
            assert_same(a, b)


def test_a_session_without_frames_can_be_saved(model, tmp_path):
    model.start(output_size=(10, 20), score_threshold=0).save(tmp_path / "empty")
    resumed = model.resume(tmp_path / "empty")
    assert resumed.output_size == (10, 20)
    resumed.push(moving_squares(1)[0])
    assert resumed.flush()[0].size == (10, 20)


@pytest.fixture
def saved(model, tmp_path) -> Path:
    session = model.start()
    for frame in moving_squares(6):
        session.push(frame)
    session.save(tmp_path / "camera.session")
    return tmp_path / "camera.session"


def description(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["mdqe-session"])


def test_contents_of_the_file(model, saved):
    """No weights, no features; names as in all files of this version."""
    tensors = load_file(saved)
    assert {name.split(".")[0] for name in tensors} == {"tracker", "frames"}
    assert {"tracker.memory.sightings.0.ids", "tracker.memory.frames.5.sums"} <= tensors.keys()
    assert tensors["frames"].shape[0] <= model.config.test_clip_length
    assert description(saved)["counts"] == {"num_frames": 6, "num_encoded": 6, "next_clip": 3, "viewed": 0}
    assert description(saved)["options"]["frames_at_once"] == 1
    assert not list(saved.parent.glob("*.partial*"))


def other_weights() -> MDQE:
    other = small_model()
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-9
    return other


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: small_model(window_length=7), r"another configuration: window_length was 6 and is 7$"),
        (lambda: small_model(num_classes=4), "num_classes was 3 and is 4"),
        (lambda: small_model().float(), "saved by a model in 'float64', this one is in 'float32'"),
        (other_weights, "saved by a model of the same configuration with other weights"),
    ],
)
def test_another_model_is_rejected(saved, other, message):
    with pytest.raises(InputError, match=f"{saved} was saved by a model .*{message}|{saved} was {message}"):
        other().resume(saved)


def rewrite(path: Path, tensors=None, **changes) -> None:
    """Change the tensors or the description in the file."""
    text = json.dumps({**description(path), **changes})
    save_file(tensors or load_file(path), path, metadata={"mdqe-session": text})


def damage(path: Path) -> None:
    tensors = load_file(path)
    tensors["tracker.memory.embeddings"][0, 0] += 1
    rewrite(path, tensors)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "is not a saved session, or is truncated"),
        (lambda p: p.write_bytes(b""), "is not a saved session, or is truncated"),
        (lambda p: p.write_text("{}" * 99), "is not a saved session, or is truncated"),
        (lambda p: save_file({"x": torch.zeros(1)}, p), "is not a saved session: a safetensors file without"),
        (
            lambda p: save_file({"x": torch.zeros(1)}, p, metadata={"mdqe-session": "["}),
            "the description of .* is not JSON",
        ),
        (lambda p: save_file({"x": torch.zeros(1)}, p, metadata={"mdqe-session": "{}"}), "has no format or no version"),
        (lambda p: rewrite(p, version=2), "is a saved session of version 2; this mdqe reads version 1"),
        (damage, "is damaged: its tensors or its description have changed since it was saved"),
        (lambda p: rewrite(p, counts={}), "is damaged: its tensors or its description"),
    ],
)
def test_invalid_files_are_rejected(model, saved, break_it, message):
    break_it(saved)
    with pytest.raises(InputError, match=message) as error:
        model.resume(saved)
    assert str(saved) in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"none\.session"):
        model.resume(saved.with_name("none.session"))


def test_views_of_a_session_that_had_none_before(model, saved):
    """They begin with the next clip: the features of earlier frames are gone."""
    views = []
    resumed = load_session(model, saved, on_frame=views.append)
    for frame in moving_squares(9)[6:]:
        resumed.push(frame)
    resumed.flush()
    assert [view.frame for view in views] == list(range(3, 9))


def test_new_ids_of_a_resumed_session_are_reported(tmp_path):
    model, video = small_model(relink=True), moving_squares(9, (60, 90))
    reported, later = [], []
    session = VideoSession(model, score_threshold=0.0, on_new_ids=lambda *ids: reported.append(ids))
    for frame in video[:5]:
        session.push(frame)
    session.save(tmp_path / "saved")
    before = len(reported)
    list(pushed(load_session(model, tmp_path / "saved", on_new_ids=lambda *ids: later.append(ids)), video[5:]))
    list(pushed(session, video[5:]))
    assert 0 < before < len(reported) == len(video) and later == reported[before:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": "0.5"}, "score_threshold is 0.5, expected a number from 0 to 1"),
        ({"score_threshold": float("nan")}, "score_threshold is nan"),
        ({"score_threshold": True}, "score_threshold is True"),
        ({"output_size": 48}, r"output_size is 48, expected \(height, width\) in pixels"),
        ({"output_size": (48.0, 72.0)}, "output_size is"),
        ({"output_size": (2**31, 2**31)}, "output_size is"),
        ({"output_size": (0, 5)}, "output_size is"),
        ({"encoder_batch_size": 0}, "encoder_batch_size is 0, expected a whole number from 1 to 1024"),
        ({"encoder_batch_size": 2**40}, "encoder_batch_size is"),
        ({"encoder_batch_size": 1.0}, "encoder_batch_size is"),
        ({"multi_label": 1}, "multi_label is '1', expected True or False"),
        ({"by_window": None}, "by_window is 'None', expected True or False"),
    ],
)
def test_invalid_options_are_named(model, options, message):
    with pytest.raises(InputError, match=message):
        model.start(**options)
