"""Backbone: timm's maps at strides 8, 16 and 32, frozen norms, and where published weights ask for more than timm."""

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

# Channels are timm's own (timm.list_models, feature_info); BatchNorm, LayerNorm and NHWC are in it.
FAMILIES = {
    "resnet18": (128, 256, 512),
    "resnet26d": (512, 1024, 2048),
    "convnext_tiny": (192, 384, 768),
    "efficientnet_b0": (40, 112, 320),
    "mobilenetv3_small_050": (16, 24, 288),
    "regnetx_002": (56, 152, 368),
    "swin_tiny_patch4_window7_224": (192, 384, 768),
}


def shake_norms(module: nn.Module) -> None:
    """Statistics and scales that differ from a fresh norm's."""
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
        maps = backbone(torch.randn(2, 3, 96, 160))  # no multiple of any window
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 96 // s, 160 // s) for c, s in zip(FAMILIES[name], (8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", ["dla34", "tresnet_m"])
def test_families_whose_first_map_timm_leaves_out(name):
    """timm counts maps from one that it does not give by default."""
    with torch.no_grad():
        maps = Backbone(name).eval()(torch.randn(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [8, 4, 2]


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "efficientnet_b0", "mobilenetv3_small_050", "regnetx_002"])
def test_frozen_norms_change_nothing_but_training(name, monkeypatch):
    """The maps are those of timm's model in evaluation mode; no mode, step or gradient reaches the norms."""
    create, created = timm.create_model, []

    def create_with_statistics(*args, **options):
        model = create(*args, **options)
        shake_norms(model)
        created.append(copy.deepcopy(model))
        return model

    monkeypatch.setattr(timm, "create_model", create_with_statistics)
    backbone, plain = Backbone(name).double().train(), created[-1].double().eval()
    frames = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = plain(frames)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    norms = {name for name, m in plain.named_modules() if isinstance(m, nn.BatchNorm2d)}
    counted = sum(p.numel() for n, p in plain.named_parameters() if n.rpartition(".")[0] not in norms)
    assert sum(p.numel() for p in backbone.parameters()) == counted
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    for got, want in zip(backbone(frames), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_norms_train_where_asked_for():
    backbone = Backbone("resnet18", frozen_batch_norm=False).train()
    before = backbone.body.bn1.running_mean.clone()
    sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert isinstance(backbone.body.bn1, nn.BatchNorm2d)
    assert not torch.equal(backbone.body.bn1.running_mean, before)
    assert backbone.body.bn1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{"stride": 2, "padding": 1}, {"groups": 4, "padding": 1}, {"dilation": 2}])
def test_convolution_with_its_norm_in_one(options):
    """FrozenNormConv2d = convolution, then FrozenBatchNorm2d: values and gradients."""
    conv, norm, frozen = (
        nn.Conv2d(8, 12, 3, bias=False, **options),
        nn.BatchNorm2d(12, 1e-3),
        FrozenBatchNorm2d(12, 1e-3),
    )
    shake_norms(norm)
    frozen.load_state_dict(norm.state_dict())
    folded = FrozenNormConv2d(copy.deepcopy(conv), norm).double()
    conv, frozen = conv.double(), frozen.double()
    x = torch.randn(2, 8, 9, 11, dtype=torch.float64, requires_grad=True)
    want = frozen(conv(x))
    upstream = torch.randn_like(want)
    want_x, want_w = torch.autograd.grad(want, (x, conv.weight), upstream)

    assert [name for name, _ in folded.named_parameters()] == ["weight"]
    got = folded(x)
    got_x, got_w = torch.autograd.grad(got, (x, folded.weight), upstream)
    for a, b in ((got, want), (got_x, want_x), (got_w, want_w)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_stride_in_the_1x1_convolution():
    """As the published ResNet-101 has it; torchvision's bottlenecks with the stride moved by hand are the oracle."""
    theirs = resnet.ResNet(resnet.Bottleneck, [2, 2, 2, 2]).double().eval()
    shake_norms(theirs)
    for stage in (theirs.layer2, theirs.layer3, theirs.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    ours = Backbone("resnet26", stride_in_1x1=True).double().eval()
    renamed = {}
    for key, value in theirs.state_dict().items():
        for norm, conv in (("bn1.", "conv1.norm."), ("bn2.", "conv2.norm."), ("bn3.", "conv3.norm.")):
            key = key.replace(norm, conv)
        renamed[f"body.{key.replace('downsample.1.', 'downsample.0.norm.')}"] = value
    wanted = {k: v for k, v in renamed.items() if "num_batches" not in k and ".fc." not in k}
    ours.load_state_dict(wanted, strict=True)
    frames = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(frames))))
        maps = [x := stage(x) for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)]
        for got, want in zip(ours(frames), maps[1:], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_stride_stays_in_the_3x3_convolution_by_default():
    first = Backbone("resnet26").body.layer2[0]
    assert (first.conv1.stride, first.conv2.stride) == ((1, 1), (2, 2))


def windowed_attention(attn: nn.Module, x: Tensor, window: int, shift: int) -> Tensor:
    """Window attention of a Swin V2 block on one map (h, w, C), token by token: padded, then shifted cyclically.

    A token sees those of its window that were neighbours before the shift.
    """
    h, w, channels = x.shape
    rows, columns = (-(-edge // window) * window for edge in (h, w))
    padded = x.new_zeros(rows, columns, channels)
    padded[:h, :w] = x
    bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
    q, k, v = F.linear(padded, attn.qkv.weight, bias).unflatten(-1, (3, attn.num_heads, -1)).unbind(2)
    q, k = (x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12) for x in (q, k))  # a padded token's key is zero
    scale = attn.logit_scale.clamp(max=math.log(100)).exp().flatten()  # (heads,)
    table = 16 * attn.cpb_mlp(attn.relative_coords_table)[0].sigmoid()  # (2·window − 1, 2·window − 1, heads)

    def place(i: int, size: int) -> tuple[int, int, int]:
        """Window and place in it of row or column i, and the piece of the map that it belongs to."""
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
            weights = torch.stack(logits).softmax(0)  # (seen, heads)
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
    """Also the last stage's, whose shift timm drops because its map at pre-training was a single window."""
    *_, last = (m for name, m in small_swin.body.named_children() if name.startswith("layers"))
    for i, block in enumerate(last.blocks):
        x = torch.randn(1, *size, block.dim, dtype=torch.float64)
        window = block.window_size[0]
        shift = window // 2 if i == 1 else 0
        assert block.shift_size == (shift, shift)
        with torch.no_grad():
            want = windowed_attention(block.attn, x[0], window, shift)
            torch.testing.assert_close(block._attn(x)[0], want, rtol=1e-9, atol=1e-11)


def test_swin_maps_are_normalised(small_swin):
    with torch.no_grad():
        maps = small_swin(torch.randn(1, 3, 96, 160, dtype=torch.float64))
        assert [tuple(m.shape) for m in maps] == [(1, 192, 12, 20), (1, 384, 6, 10), (1, 768, 3, 5)]
        for m in maps:
            torch.testing.assert_close(m.mean(1), torch.zeros_like(m[:, 0]), atol=1e-9, rtol=0)
            torch.testing.assert_close(m.var(1, unbiased=False), torch.ones_like(m[:, 0]), atol=1e-3, rtol=0)


def test_drop_path_is_for_training_alone():
    backbone = Backbone("convnext_atto", drop_path=0.5)
    frames = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        backbone.eval()
        assert torch.equal(backbone(frames)[2], backbone(frames)[2])
        backbone.train()
        assert not torch.equal(backbone(frames)[2], backbone(frames)[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet5000"}, "backbone 'resnet5000' is not a timm model; near it are .*resnet"),
        ({"name": "no such thing"}, "backbone 'no such thing' is not a timm model$"),
        ({"name": "vit_tiny_patch16_224"}, r"has feature maps at strides \[16, 16, 16\], expected \(8, 16, 32\)"),
        (
            {"name": "convnext_atto", "stride_in_1x1": True},
            "stride_in_1x1 is True, but backbone 'convnext_atto' has",
        ),
        ({"name": "resnet18", "stride_in_1x1": True}, "'resnet18' has no strided bottlenecks"),
    ],
)
def test_backbones_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Backbone(**options)
