"""Backbone: timm's maps at strides 8, 16 and 32, frozen norms, and what the published weights need beyond timm."""

import copy
import math

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

from mdqe.modeling.backbone import Backbone, FrozenNormConv2d

# The channels are those of timm's feature_info. The families cover BatchNorm, LayerNorm and NHWC.
FAMILIES = {
    "resnet18": (128, 256, 512),
    "resnet26d": (512, 1024, 2048),
    "convnext_tiny": (192, 384, 768),
    "efficientnet_b0": (40, 112, 320),
    "mobilenetv3_small_050": (16, 24, 288),
    "regnetx_002": (56, 152, 368),
    "swin_tiny_patch4_window7_224": (192, 384, 768),
}


def randomize_norms(module: nn.Module) -> None:
    """Give batch norms other statistics and scales than the initial ones."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.5, 0.5)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 2)
            nn.init.uniform_(m.bias, -0.5, 0.5)


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_of_every_family(name):
    backbone = Backbone(name).eval()
    assert backbone.channels == FAMILIES[name]
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 96, 160))  # not a multiple of any window size
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 96 // s, 160 // s) for c, s in zip(FAMILIES[name], (8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", ["dla34", "tresnet_m"])
def test_families_without_a_first_map(name):
    """timm numbers the maps from one that it does not return by default."""
    with torch.no_grad():
        maps = Backbone(name).eval()(torch.randn(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [8, 4, 2]


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "efficientnet_b0", "mobilenetv3_small_050", "regnetx_002"])
def test_frozen_norms_are_constants(name, monkeypatch):
    """In training mode the maps are those of timm's model in evaluation mode, and no buffer changes."""
    create, created = timm.create_model, []

    def create_with_statistics(*args, **options):
        model = create(*args, **options)
        randomize_norms(model)
        created.append(copy.deepcopy(model))
        return model

    monkeypatch.setattr(timm, "create_model", create_with_statistics)
    backbone, plain = Backbone(name).double().train(), created[-1].double().eval()
    frames = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = plain(frames)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    norms = {name for name, m in plain.named_modules() if isinstance(m, nn.BatchNorm2d)}
    trained = sum(p.numel() for n, p in plain.named_parameters() if n.rpartition(".")[0] not in norms)
    assert sum(p.numel() for p in backbone.parameters()) == trained
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    for result, m in zip(backbone(frames), expected, strict=True):
        torch.testing.assert_close(result, m, rtol=1e-9, atol=1e-11)
    assert [key for key, value in backbone.state_dict().items() if not torch.equal(value, state[key])] == []


@pytest.mark.parametrize("name", ["resnet10t", "resnet18", "efficientnet_b0"])
def test_norms_frozen_later(name):
    """`freeze_norms` keeps the maps of evaluation mode; in ResNets every norm becomes part of a convolution."""
    backbone = Backbone(name, frozen_batch_norm=False).double().eval()
    randomize_norms(backbone)
    frames = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = backbone(frames)
        backbone.freeze_norms()
        for result, m in zip(backbone.train()(frames), expected, strict=True):
            torch.testing.assert_close(result, m, rtol=1e-9, atol=1e-11)
    if name.startswith("resnet"):
        folded = sum(isinstance(m, FrozenNormConv2d) for m in backbone.modules())
        assert folded == sum(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules()) > 0
    assert Backbone(name).state_dict().keys() == backbone.state_dict().keys()  # as if frozen from the start


def test_norms_that_train():
    backbone = Backbone("resnet18", frozen_batch_norm=False).train()
    before = backbone.body.bn1.running_mean.clone()
    sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert isinstance(backbone.body.bn1, nn.BatchNorm2d)
    assert not torch.equal(backbone.body.bn1.running_mean, before)
    assert backbone.body.bn1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"groups": 4, "padding": 1}, {"dilation": 2}])
def test_convolution_with_a_folded_norm(options):
    """The values and gradients of FrozenNormConv2d are those of a convolution and FrozenBatchNorm2d."""
    conv = nn.Conv2d(8, 12, 3, bias=False, **options)
    norm, frozen = nn.BatchNorm2d(12, 1e-3), FrozenBatchNorm2d(12, 1e-3)
    randomize_norms(norm)
    frozen.load_state_dict(norm.state_dict())
    folded = FrozenNormConv2d(copy.deepcopy(conv), norm).double()
    conv, frozen = conv.double(), frozen.double()
    assert [name for name, _ in folded.named_parameters()] == ["weight"]
    x = torch.randn(2, 8, 9, 11, dtype=torch.float64, requires_grad=True)
    expected, result = frozen(conv(x)), folded(x)
    upstream = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, (x, conv.weight), upstream)
    gradients = torch.autograd.grad(result, (x, folded.weight), upstream)
    for a, b in zip((result, *gradients), (expected, *expected_gradients), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_stride_in_the_1x1_convolution():
    """As in the published ResNet-101; compared with torchvision's bottlenecks after moving their strides."""
    theirs = resnet.ResNet(resnet.Bottleneck, [2, 2, 2, 2]).double().eval()
    randomize_norms(theirs)
    for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    ours = Backbone("resnet26", stride_in_1x1=True).double().eval()
    renamed = {}
    for key, value in theirs.state_dict().items():
        for norm, conv in (("bn1.", "conv1.norm."), ("bn2.", "conv2.norm."), ("bn3.", "conv3.norm.")):
            key = key.replace(norm, conv)
        renamed[f"body.{key.replace('downsample.1.', 'downsample.0.norm.')}"] = value
    state = {k: v for k, v in renamed.items() if "num_batches" not in k and ".fc." not in k}
    ours.load_state_dict(state, strict=True)
    frames = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(frames))))
        maps = [x := stage(x) for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)]
        for result, expected in zip(ours(frames), maps[1:], strict=True):
            torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    default = Backbone("resnet26").body.layer2[0]
    assert (default.conv1.stride, default.conv2.stride) == ((1, 1), (2, 2))


def windowed_attention(attn: nn.Module, x: Tensor, window: int, shift: int) -> Tensor:
    """Window attention of a Swin V2 block on one map (h, w, C), token by token: padded, then shifted cyclically.

    A token attends to the tokens of its window that were neighbours before the shift.
    """
    h, w, channels = x.shape
    rows, columns = (-(-edge // window) * window for edge in (h, w))
    padded = x.new_zeros(rows, columns, channels)
    padded[:h, :w] = x
    bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
    q, k, v = F.linear(padded, attn.qkv.weight, bias).unflatten(-1, (3, attn.num_heads, -1)).unbind(2)
    q, k = (x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12) for x in (q, k))  # the key of a padded token is zero
    scale = attn.logit_scale.clamp(max=math.log(100)).exp().flatten()  # (heads,)
    table = 16 * attn.cpb_mlp(attn.relative_coords_table)[0].sigmoid()  # (2·window − 1, 2·window − 1, heads)

    def place(i: int, size: int) -> tuple[int, int, int]:
        """The window of row or column i, its place in the window, and its part of the map."""
        moved = (i - shift) % size
        piece = 0 if moved < size - window else 1 if moved < size - shift else 2
        return moved // window, moved % window, piece if shift else 0

    out = torch.empty_like(padded)
    for i in range(rows):
        for j in range(columns):
            (wi, pi, ri), (wj, pj, rj) = place(i, rows), place(j, columns)
            logits, values = [], []
            for a in range(rows):
                for b in range(columns):
                    (wa, pa, ra), (wb, pb, rb) = place(a, rows), place(b, columns)
                    if (wa, wb, ra, rb) == (wi, wj, ri, rj):
                        near = table[pi - pa + window - 1, pj - pb + window - 1]
                        logits.append((q[i, j] * k[a, b]).sum(-1) * scale + near)
                        values.append(v[a, b])
            weights = torch.stack(logits).softmax(0)  # (tokens, heads)
            out[i, j] = (weights[..., None] * torch.stack(values)).sum(0).flatten()
    return attn.proj(out)[:h, :w]


@pytest.fixture(scope="module")
def small_swin() -> Backbone:
    torch.manual_seed(0)
    backbone = Backbone("swinv2_tiny_window8_256").double().eval()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith(("q_bias", "v_bias", "logit_scale")):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return backbone


@pytest.mark.parametrize("size", [(5, 11), (8, 9)])
def test_swin_blocks_on_maps_of_any_size(size, small_swin):
    """Including the last stage, where timm omits the shift because its map was a single window in pre-training."""
    *_, last = (m for name, m in small_swin.body.named_children() if name.startswith("layers"))
    for i, block in enumerate(last.blocks):
        x = torch.randn(1, *size, block.dim, dtype=torch.float64)
        window = block.window_size[0]
        shift = window // 2 if i == 1 else 0
        assert block.shift_size == (shift, shift)
        with torch.no_grad():
            expected = windowed_attention(block.attn, x[0], window, shift)
            torch.testing.assert_close(block._attn(x)[0], expected, rtol=1e-9, atol=1e-11)


def test_swin_maps_are_normalised(small_swin):
    with torch.no_grad():
        maps = small_swin(torch.randn(1, 3, 96, 160, dtype=torch.float64))
        assert [tuple(m.shape) for m in maps] == [(1, 192, 12, 20), (1, 384, 6, 10), (1, 768, 3, 5)]
        for m in maps:
            torch.testing.assert_close(m.mean(1), torch.zeros_like(m[:, 0]), atol=1e-9, rtol=0)
            torch.testing.assert_close(m.var(1, unbiased=False), torch.ones_like(m[:, 0]), atol=1e-3, rtol=0)


def test_drop_path_in_training_only():
    backbone, frames = Backbone("convnext_atto", drop_path=0.5), torch.randn(1, 3, 64, 64)
    for training in (False, True):
        backbone.train(training)
        with torch.no_grad():
            assert torch.equal(backbone(frames)[2], backbone(frames)[2]) != training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet5000"}, "backbone 'resnet5000' is not a timm model; similar names: .*resnet"),
        ({"name": "no such thing"}, "backbone 'no such thing' is not a timm model$"),
        (
            {"name": "resnet50.nonsense"},
            "backbone 'resnet50.nonsense': timm has no variant 'nonsense' of resnet50, only a1",
        ),
        ({"name": "resnet50.a1_in1k.x"}, "timm has no variant 'a1_in1k.x' of resnet50"),
        ({"name": "nonsense.a1_in1k"}, "backbone 'nonsense.a1_in1k' is not a timm model"),
        ({"name": "resnet18.\x1b"}, r"timm has no variant '\\x1b' of resnet18"),
        ({"name": "dla34", "drop_path": 0.1}, "drop_path is 0.1, but backbone 'dla34' has no stochastic depth"),
        ({"name": "vit_tiny_patch16_224"}, r"has feature maps at strides \[16, 16, 16\], expected \(8, 16, 32\)"),
        ({"name": "convnext_atto", "stride_in_1x1": True}, "stride_in_1x1 is True, but backbone 'convnext_atto' has"),
        ({"name": "resnet18", "stride_in_1x1": True}, "'resnet18' has no strided bottlenecks"),
    ],
)
def test_unsuitable_backbones(options, message):
    with pytest.raises(ValueError, match=message):
        Backbone(**options)
