"""Golden files of single networks at their real size, with weights by formula (weightgen.py), in float32.

    tf437/bin/python fullsize.py OUT [resnet50 clip projector llama_layer sam_encoder mask_decoder]

Needs about 6 GB of memory. Big outputs are thinned: every stride-th element of the flattened tensor is kept, at
most about 4096 in all for one network, plus mean and standard deviation of the whole.
"""
import gc
import math
import sys
import time
from pathlib import Path

import networks as net
import torch
from half import Rounded
from weightgen import fill, tensor

KEEP = 4096


def save(path, tensors, whole=()):
    """Thins every tensor not named in `whole` to its share of KEEP values and writes the file."""
    from safetensors.torch import save_file
    out, share = {}, KEEP // max(1, len(tensors) - len(whole))
    for name, value in tensors.items():
        if name in whole:
            out[name] = value.float().contiguous()
            continue
        flat = value.float().flatten()
        stride = max(1, -(-flat.numel() // share))
        while stride > 1 and any(math.gcd(stride, n) > 1 for n in value.shape):
            stride += 1                                     # so that every row and every channel has its turn
        out[name] = flat[::stride].clone()
        out[name + ".stride"] = torch.tensor([stride])
        out[name + ".shape"] = torch.tensor(value.shape)
        wide = flat.double()
        out[name + ".mean_std"] = torch.stack([wide.mean(), wide.std(unbiased=False)]).float()
    save_file(out, path)
    for name, value in tensors.items():
        print("    %-10s %-20s mean %+.3f std %.3f largest %.2f" % (
            name, list(value.shape), value.mean(), value.std(), value.abs().max()))


def resnet50():
    model = fill(net.resnet50())
    return net.resnet_stages(model, tensor("input", (1, 3, 224, 224))), ("logits",)


def clip():
    from transformers import CLIPVisionConfig, CLIPVisionModel
    model = fill(CLIPVisionModel(CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14,
        hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=768)).eval())
    hidden = net.clip_hidden(model, tensor("input", (1, 3, 336, 336)))
    result = {"hidden_%d" % i: hidden[i][0] for i in (0, 1, 12, 23)}
    result["selected"] = hidden[-2][0, 1:]
    return result, ()


def projector():
    names = {"0.weight": (5120, 1024), "0.bias": (5120,), "2.weight": (5120, 5120), "2.bias": (5120,)}
    weights = {"model.mm_projector." + k: tensor("model.mm_projector." + k, v) for k, v in names.items()}
    return {"out": net.load_projector(weights)(tensor("input", (576, 1024)))}, ()


def llama_layer():
    fields = dict(hidden_size=5120, intermediate_size=13824, num_hidden_layers=1, num_attention_heads=40, vocab_size=8,
                  rms_norm_eps=1e-5, max_position_embeddings=4096, hidden_act="silu", pad_token_id=0)
    model = fill(net.llama(fields))
    trace = net.llama_trace(model, tensor("input", (710, 5120))[None])
    return {"out": trace["layer_0"], "final": trace["final"]}, ()


REAL_SAM = dict(image=1024, patch=16, width=1280, depth=32, heads=16, window=14, global_blocks=(7, 15, 23, 31), out=256,
                mlp=2048)


def sam_encoder():
    model = fill(net.sam(**REAL_SAM))
    states = net.sam_encode(model, tensor("input", (1, 3, 1024, 1024)))
    return {k: states[k] for k in ("embed", "block_0", "block_7", "block_31", "neck")}, ()


def mask_decoder():
    model = fill(net.sam(**REAL_SAM, encoder=False))
    pe = net.TextPrompt(model.prompt_encoder).dense_pe()
    masks = net.sam_decode(model, tensor("input", (1, 256, 64, 64)), tensor("input.text", (1, 1, 256)), pe)
    post = net.postprocess(masks[:, :1], 1024, (768, 1024), (768, 1024))
    with Rounded(torch.bfloat16):
        pe_bf16 = net.TextPrompt(model.bfloat16().prompt_encoder).dense_pe()
    return {"pe_f32": pe[0], "pe_bf16": pe_bf16[0].float(), "low_res": masks[:, :1], "post": post[0]}, ()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or ("resnet50", "clip", "projector", "llama_layer", "mask_decoder", "sam_encoder"):
        start = time.time()
        tensors, whole = globals()[name]()
        print("full_%s: %.0f s" % (name, time.time() - start))
        save(folder / ("full_%s.safetensors" % name), tensors, whole)
        del tensors
        gc.collect()
