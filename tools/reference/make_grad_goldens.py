"""Golden gradients of single operators: tests/golden/grads.safetensors, read by tests/unit/test_tape.c, and grads_vision.safetensors, read by
tests/unit/test_tape_vision.c.

For each case NAME, input k is weightgen's `input.NAME.k` times the case's spread plus its offset (float32), the gradient of the result is
`input.NAME.seed` (1 for a loss), and `NAME.dk` is what PyTorch's autograd gives for input k, in float64, rounded once.

    OPENBLAS_CORETYPE=SkylakeX python make_grad_goldens.py ../../tests/golden
"""
import math
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import add_decomposed_rel_pos, window_partition, window_unpartition
from torchvision.ops import roi_align
from transformers.activations import QuickGELUActivation

from weightgen import tensor

results = {}


def case(name, fn, *shapes, spread=1.0, offset=0.0):
    inputs = []
    for k, shape in enumerate(shapes):
        scale, shift = (spread, offset) if k == 0 else (1.0, 0.0)
        values = tensor(f"input.{name}.{k}", shape) * torch.tensor(scale) + torch.tensor(shift)
        inputs.append(values.double().requires_grad_())
    y = fn(*inputs)
    seed = torch.ones(1).double().reshape(y.shape) if y.numel() == 1 else tensor(f"input.{name}.seed", tuple(y.shape)).double()
    y.backward(seed)
    for k, x in enumerate(inputs):
        results[f"{name}.d{k}"] = x.grad.float()


def rms_norm(x, w):
    return w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


def rope(x):
    positions, half = torch.tensor([3.0, 0, 700, 12, 5]), x.shape[-1] // 2
    inv_freq = 1.0 / (10000.0 ** (torch.arange(0, 2 * half, 2).float() / (2 * half)))
    angles = torch.outer(positions, inv_freq)  # float32, as transformers has it
    cos, sin = angles.double().cos().float().double()[:, None], angles.double().sin().float().double()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def attention(causal):
    def run(q, k, v):
        group = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(group, 1).transpose(0, 1) for t in (k, v))
        s = q.transpose(0, 1) @ k.transpose(1, 2) * torch.tensor(0.4).double()
        if causal:
            nq, nk = s.shape[1:]
            s = s.masked_fill(torch.arange(nk)[None] > torch.arange(nq)[:, None] + nk - nq, -math.inf)
        return (s.softmax(-1) @ v).transpose(0, 1)
    return run


MASK = (torch.arange(42) % 3 == 0).double().reshape(6, 7)


def dice(x):  # model/GLaMM.py, one mask
    s, t = x.sigmoid().flatten(), MASK.flatten()
    return 1 - (2 * (s / 1000 * t).sum() + 1e-6) / ((s / 1000).sum() + (t / 1000).sum() + 1e-6)


case("add_b", torch.add, (4, 5, 7), (7,))
case("mul_b", torch.mul, (4, 5, 7), (1, 5, 7))
case("relu", F.relu, (40, 3), spread=0.4, offset=0.5)
case("gelu", F.gelu, (41, 70), spread=4.0)
case("quick_gelu", QuickGELUActivation(), (5, 7), spread=4.0)
case("silu_mul", lambda g, u: F.silu(g) * u, (5, 700), (5, 700), spread=4.0)
case("window_partition", lambda x: window_partition(x[None], 3)[0].flatten(1, 2), (5, 4, 2))
case("window_unpartition", lambda x: window_unpartition(x.unflatten(1, (3, 3)), 3, (6, 6), (5, 4))[0], (4, 9, 2))
case("linear_few", F.linear, (3, 10), (7, 10), (7,))
case("linear_many", F.linear, (2, 15, 33), (41, 33), (41,))
case("matmul", torch.matmul, (17, 9), (9, 21))
case("layer_norm", lambda x, w, b: F.layer_norm(x, (33,), w, b, 1e-5), (5, 33), (33,), (33,))
case("rms_norm", rms_norm, (5, 33), (33,))
case("softmax", lambda x: x.softmax(-1), (5, 13), spread=3.0)
case("rope", rope, (5, 3, 8))
case("attention_causal", attention(True), (20, 4, 6), (33, 2, 6), (33, 2, 5))
case("attention_few", attention(True), (3, 4, 6), (9, 4, 6), (9, 4, 6))
case("attention_all", attention(False), (20, 2, 6), (7, 2, 6), (7, 2, 6))
case("embedding", lambda t: F.embedding(torch.tensor([2, 0, 2, 5, 2]), t), (6, 9))
case("gather_rows", lambda x: x[torch.tensor([5, 0, 2, 2, 0, 2, 3])], (6, 3, 23))
case("cross_entropy", lambda x: F.cross_entropy(x, torch.tensor([3, -100, 0, 6, -100, 3])), (6, 7), spread=3.0)
case("bce_with_logits", lambda x: F.binary_cross_entropy_with_logits(x, MASK), (6, 7), spread=3.0)
case("dice_loss", dice, (6, 7), spread=3.0)
save_file(results, f"{sys.argv[1]}/grads.safetensors")


# ---- pictures ----

results = {}


def conv(stride, pad):
    return lambda x, w, b=None: F.conv2d(x, w, b, stride, pad)


def layer_norm_2d(x, w, b):
    norm = LayerNorm2d(w.numel())
    del norm.weight, norm.bias
    norm.weight, norm.bias = w, b
    return norm(x[None])[0]


def sam_attention(h, w):
    def fn(q, k, v, rel_h, rel_w):      # q: [windows, h*w, heads, d]
        windows, n, heads, d = q.shape
        q, k, v = (t.transpose(1, 2).reshape(windows * heads, n, d) for t in (q, k, v))
        attn = (q * torch.tensor(0.3).double()) @ k.transpose(-2, -1)
        attn = add_decomposed_rel_pos(attn, q, rel_h, rel_w, (h, w), (h, w)).softmax(dim=-1)
        return (attn @ v).reshape(windows, heads, n, d).transpose(1, 2)
    return fn


def resize(size, align):
    return lambda x: F.interpolate(x[None], size, mode="bilinear", align_corners=align)[0]


def rois(ratio):
    boxes = torch.tensor([[0.0, 0.0, 20.0, 26.0], [3.5, 2.25, 9.0, 11.0], [-4.0, -3.0, 40.0, 30.0], [6.0, 6.0, 6.0, 6.0]]).double()
    return lambda x: roi_align(x[None], [boxes], 5, 0.5, ratio or -1, True)


for name, size, out, kernel, stride, pad in (("conv3", (2, 5, 11, 13), 7, 3, 1, 1), ("conv3s2", (2, 5, 11, 13), 7, 3, 2, 1),
                                             ("conv7s2", (3, 20, 17), 10, 7, 2, 3), ("conv1", (5, 9, 31), 40, 1, 1, 0),
                                             ("conv1s2", (3, 5, 9, 6), 4, 1, 2, 0), ("conv3wide", (4, 6, 5), 3, 3, 1, 2), ("conv3far", (4, 6, 5), 3, 3, 1, 3)):
    case(name, conv(stride, pad), size, (out, size[-3], kernel, kernel), (out,))
case("patch4", conv(4, 0), (3, 13, 18), (6, 3, 4, 4))
case("deconv2", lambda x, w, b: F.conv_transpose2d(x[None], w, b, 2)[0], (6, 5, 7), (6, 4, 2, 2), (4,))
case("deconv3s2", lambda x, w, b: F.conv_transpose2d(x[None], w, b, 2)[0], (6, 17, 16), (6, 4, 3, 3), (4,))
case("deconv2s3", lambda x, w: F.conv_transpose2d(x[None], w, None, 3)[0], (2, 3, 4), (2, 5, 2, 2))
case("layer_norm_2d", layer_norm_2d, (24, 9, 31), (24,), (24,), spread=2.0, offset=1.0)
case("group_norm", lambda x, w, b: F.group_norm(x[None], 6, w, b, 1e-5)[0], (24, 9, 31), (24,), (24,), spread=2.0, offset=1.0)
MEAN, VARIANCE = torch.tensor([0.25, -0.5, 0.0, 1.0, -1.0]).double(), torch.tensor([0.5, 1.0, 2.0, 0.25, 1.5]).double()
case("batch_norm", lambda x, w, b: F.batch_norm(x, MEAN, VARIANCE, w, b, False, 0, 1e-5), (2, 5, 9, 31), (5,), (5,))
case("batch_norm_train", lambda x, w, b: F.batch_norm(x, None, None, w, b, True, 0, 1e-5), (3, 5, 9, 31), (5,), (5,), spread=2.0, offset=1.0)
for name, size, align in (("resize_up", (29, 31), False), ("resize_down", (5, 4), False), ("resize_align", (26, 19), True),
                          ("resize_align_down", (4, 1), True)):
    case(name, resize(size, align), (3, 13, 10))
case("attention_rel", sam_attention(5, 7), (2, 35, 2, 12), (2, 35, 2, 12), (2, 35, 2, 12), (9, 12), (13, 12))
case("attention_rel_one", sam_attention(18, 17), (1, 306, 1, 16), (1, 306, 1, 16), (1, 306, 1, 16), (35, 16), (33, 16))
case("max_pool", lambda x: F.max_pool2d(x, 3, 2, 1), (2, 3, 13, 10))
case("mean_hw", lambda x: x.mean((-1, -2)), (2, 3, 13, 10))
case("roi_align", rois(2), (3, 13, 10))
case("roi_align_auto", rois(0), (3, 13, 10))
save_file(results, f"{sys.argv[1]}/grads_vision.safetensors")
