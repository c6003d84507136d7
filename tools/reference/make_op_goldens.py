"""Golden results of single operators: tests/golden/ops.safetensors, read by tests/unit/test_ops.c.

Inputs come by formula (weightgen.py), so only results are stored. For each case `NAME` holds the result in f32 and, where the 16-bit
rounding matters, `NAME.bf16` what the same Python computes on bfloat16 tensors. The latter runs operator by operator in f32 with one
rounding each, as a GPU does and as the original ran: PyTorch 1.13's own bfloat16 on a CPU also rounds Python numbers (sqrt(d) in the
attention's division) and the scale and shift of a layer norm, which no GPU does. The f32 results are computed in float64 and
rounded once, so that the reference's own rounding does not blur the comparison; operators that are defined by their f32 arithmetic
(rotary angles, sampling positions) are computed in float32 as they are in the original.

    OPENBLAS_CORETYPE=SkylakeX python make_op_goldens.py ../../tests/golden/ops.safetensors
"""
import math
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import add_decomposed_rel_pos, window_partition
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torchvision.ops import roi_align
from transformers.activations import QuickGELUActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from half import MOVES_ONLY
from weightgen import tensor

results = {}


class Rounded(TorchDispatchMode):
    """Every operator on bfloat16 tensors computes in float32 and rounds its result once."""
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in args if isinstance(t, torch.Tensor)]
        if func.overloadpacket.__name__ in MOVES_ONLY or not any(t.dtype == torch.bfloat16 for t in tensors):
            return func(*args, **kwargs)
        wide = tree_map(lambda t: t.float() if isinstance(t, torch.Tensor) and t.dtype == torch.bfloat16 else t, (args, kwargs))
        return tree_map(lambda t: t.bfloat16() if isinstance(t, torch.Tensor) and t.dtype == torch.float32 else t,
                        func(*wide[0], **wide[1]))


def case(name, fn, *inputs, bf16=True, exact=True):
    """fn on the inputs in float64 (float32 if not exact) and, if bf16, in bfloat16."""
    results[name] = fn(*[t.double() if exact else t for t in inputs]).float()
    if bf16:
        inputs = [t.bfloat16() for t in inputs]
        with Rounded():
            results[name + ".bf16"] = fn(*inputs)
        assert results[name + ".bf16"].dtype == torch.bfloat16, name


def x(name, *shape):
    return tensor(f"input.{name}", shape)


def heads_first(t):      # [n, heads, d] -> [heads, n, d]
    return t.transpose(0, 1)


def llama_attention(q, k, v, causal):
    """As LlamaAttention: scores divided by sqrt(d), masked, softmax in f32 and cast back."""
    d, nq, nk = q.shape[-1], q.shape[0], k.shape[0]
    group = q.shape[1] // k.shape[1]
    k, v = (heads_first(t).repeat_interleave(group, 0) for t in (k, v))
    scores = torch.matmul(heads_first(q), k.transpose(1, 2)) / math.sqrt(d)
    if causal:
        hidden = torch.ones(nq, nk, dtype=torch.bool).triu(nk - nq + 1)
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    upcast = torch.float64 if scores.dtype == torch.float64 else torch.float32
    p = F.softmax(scores, dim=-1, dtype=upcast).to(q.dtype)
    return heads_first(torch.matmul(p, v)).contiguous()


def sam_attention(h, w):
    def fn(q, k, v, rel_h, rel_w):      # q: [windows, h*w, heads, d]
        windows, n, heads, d = q.shape
        q, k, v = (t.transpose(1, 2).reshape(windows * heads, n, d) for t in (q, k, v))
        attn = (q * d ** -0.5) @ k.transpose(-2, -1)
        attn = add_decomposed_rel_pos(attn, q, rel_h, rel_w, (h, w), (h, w)).softmax(dim=-1)
        return (attn @ v).reshape(windows, heads, n, d).transpose(1, 2).contiguous()
    return fn


def rms_norm(t, w):
    norm = LlamaRMSNorm(w.numel(), eps=1e-5)
    norm.weight.data = w
    if t.dtype == torch.float64:        # LlamaRMSNorm itself computes in float32
        return t * torch.rsqrt(t.pow(2).mean(-1, keepdim=True) + 1e-5) * w
    return norm(t)


def layer_norm_2d(t, w, b):
    norm = LayerNorm2d(w.numel())
    norm.weight.data, norm.bias.data = w, b
    return norm(t[None])[0]


def rope(pos0):
    def fn(t):                          # [n, heads, d]
        n, _, d = t.shape
        rotary = LlamaRotaryEmbedding(d, max_position_embeddings=2048, base=10000)
        cos, sin = rotary(t, seq_len=pos0 + n)
        ids = torch.arange(pos0, pos0 + n)[None]
        q, _ = apply_rotary_pos_emb(heads_first(t)[None], heads_first(t)[None], cos, sin, ids)
        return heads_first(q[0]).contiguous()
    return fn


def main(path):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.no_grad():
        # products
        case("linear", F.linear, x("linear", 7, 300), tensor("linear.weight", (45, 300)), tensor("linear.bias", (45,)))
        case("linear_few", F.linear, x("linear_few", 3, 300), tensor("linear.weight", (45, 300)), tensor("linear.bias", (45,)))
        case("linear_long", F.linear, x("linear_long", 5, 5003), tensor("linear_long.weight", (9, 5003)), bf16=False)
        case("matmul", torch.matmul, x("matmul.a", 5, 70), x("matmul.b", 70, 41))
        for name, size, kernel, stride, pad in (("conv3", (6, 11, 13), 3, 1, 1), ("conv3s2", (6, 11, 13), 3, 2, 1),
                                                ("conv7s2", (3, 20, 17), 7, 2, 3), ("conv1", (5, 9, 6), 1, 1, 0),
                                                ("conv1s2", (5, 9, 6), 1, 2, 0), ("patch4", (3, 12, 16), 4, 4, 0)):
            case(name, lambda t, w, b: F.conv2d(t[None], w, b, stride, pad)[0], x(name, *size),
                 tensor(f"{name}.weight", (10, size[0], kernel, kernel)), tensor(f"{name}.bias", (10,)), bf16=name == "conv3")
        for name, kernel, stride in (("deconv2", 2, 2), ("deconv3s2", 3, 2)):
            case(name, lambda t, w, b: F.conv_transpose2d(t[None], w, b, stride)[0], x(name, 6, 5, 7),
                 tensor(f"{name}.weight", (6, 4, kernel, kernel)), tensor(f"{name}.bias", (4,)), bf16=False)
        # elementwise; the wide range shows the tails
        wide = 4 * x("wide", 1500)
        case("gelu", F.gelu, wide)
        case("silu", F.silu, wide)
        case("quick_gelu", QuickGELUActivation(), wide)
        case("silu_mul", lambda g, u: F.silu(g) * u, wide, x("up", 1500))
        case("add", torch.add, x("add.a", 6, 50), x("add.b", 50))
        # norms
        norm_in = 3 * x("norm", 9, 140) + 2
        w, b = tensor("norm.weight", (140,)), tensor("norm.bias", (140,))
        case("layer_norm", lambda t, w, b: F.layer_norm(t, (140,), w, b, 1e-5), norm_in, w, b)
        case("rms_norm", rms_norm, norm_in, w)
        w, b = tensor("norm2d.weight", (24,)), tensor("norm2d.bias", (24,))
        maps = 2 * x("norm2d", 24, 9, 31) + 1
        case("layer_norm_2d", layer_norm_2d, maps, w, b)
        case("group_norm", lambda t, w, b: F.group_norm(t[None], 6, w, b, 1e-5)[0], maps, w, b, bf16=False)
        case("batch_norm", lambda t, w, b, m, v: F.batch_norm(t[None], m, v, w, b, False, 0, 1e-5)[0], maps, w, b,
             tensor("norm2d.running_mean", (24,)), tensor("norm2d.running_var", (24,)), bf16=False)
        case("softmax", lambda t: F.softmax(t, -1), 3 * x("softmax", 5, 333))
        # attention
        case("rope", rope(0), x("rope", 5, 3, 16), exact=False)
        case("rope_far", rope(1019), x("rope_far", 3, 2, 128), exact=False)
        q, k, v = x("attention.q", 130, 4, 20), x("attention.k", 300, 2, 20), x("attention.v", 300, 2, 24)
        case("attention", lambda q, k, v: llama_attention(q, k, v, False), q, k, v)
        case("attention_causal", lambda q, k, v: llama_attention(q, k, v, True), q, k, v)
        case("attention_few", lambda q, k, v: llama_attention(q, k, v, True), q[:2], k, v)
        for name, windows, h, grid_w, heads, d in (("rel", 2, 5, 7, 2, 12), ("rel_large", 1, 18, 17, 1, 16)):
            q, k, v = (x(f"{name}.{t}", windows, h * grid_w, heads, d) for t in "qkv")
            case(name, sam_attention(h, grid_w), q, k, v, tensor(f"{name}.rel_pos_h", (2 * h - 1, d)),
                 tensor(f"{name}.rel_pos_w", (2 * grid_w - 1, d)))
        case("windows", lambda t: window_partition(t[None], 4)[0].reshape(-1, 16, 3), x("windows", 9, 6, 3), bf16=False)
        # pooling and sampling
        maps = x("maps", 3, 13, 10)
        case("max_pool", lambda t: F.max_pool2d(t[None], 3, 2, 1)[0], maps, bf16=False)
        case("mean_hw", lambda t: t.mean((1, 2)), maps, bf16=False)
        for name, size, align in (("resize_up", (29, 31), False), ("resize_down", (5, 4), False), ("resize_align", (26, 19), True)):
            case(name, lambda t: F.interpolate(t[None], size, mode="bilinear", align_corners=align)[0], maps, bf16=False, exact=False)
        boxes = torch.tensor([[0.0, 0.0, 20.0, 26.0], [3.5, 2.25, 9.0, 11.0], [-4.0, -3.0, 40.0, 30.0], [6.0, 6.0, 6.0, 6.0]])
        for name, ratio in (("roi_align", 2), ("roi_align_auto", 0)):
            case(name, lambda t: roi_align(t[None], [boxes], 5, 0.5, ratio or -1, True), maps, bf16=False, exact=False)
    save_file({name: t.contiguous() for name, t in sorted(results.items())}, path)


if __name__ == "__main__":
    main(sys.argv[1])
