"""Golden gradients of whole networks of the tiny checkpoint: tests/golden/grads_net.safetensors, read by tests/parity/test_gradients.c.

The loss is <seed, result>, seed and inputs by formula; everything runs in float64. The ResNet is not the checkpoint's but a shallower one of
weights by formula: through 53 layers of a narrow one normalised by few values, float32 and float64 do not agree in PyTorch itself (2e-2). For each tensor with a gradient `NET/NAME` holds the
gradient's norm, its product with weightgen's `input.NAME`, and every ceil(n / 64)-th of its n values from 0. `NET/result` is sampled alike. The
ResNet is in training mode; `resnet/NAME.running_mean` and so on are its statistics after the batch, whole.

    OPENBLAS_CORETYPE=SkylakeX python make_net_grad_goldens.py ../../tests/golden/grads_net.safetensors
"""
import sys

import torch
from safetensors.torch import save_file

import networks
from weightgen import fill, tensor

torch.set_grad_enabled(True)
results = {}


def sampled(name, t):
    flat = t.detach().double().flatten()
    other = tensor("input." + name, tuple(t.shape)).double().flatten()
    return torch.cat([torch.stack([flat.norm(), flat @ other]), flat[::-(-flat.numel() // 64)]]).float()


def network(net, result, leaves):
    """leaves: name -> tensor with requires_grad"""
    (result * tensor(f"input.{net}.seed", tuple(result.shape)).double()).sum().backward()
    results[f"{net}/result"] = sampled("result", result)
    for name, t in leaves.items():
        if t.grad is not None and t.grad.norm() > 1e-9:     # less is what is left of zero: biases of keys, which softmax does not see
            results[f"{net}/{name}"] = sampled(name, t.grad)


def main(path):
    model = networks.load_clip().double()
    hidden = networks.clip_hidden(model, tensor("input", (1, 3, 112, 112)).double())
    network("clip", hidden[-2][0, 1:], dict(model.named_parameters()))

    model = networks.load_sam(networks.read_checkpoint(networks.TINY / "MFLM")).double()
    prefix = "model.grounding_encoder."
    embedding = model.image_encoder(tensor("input", (1, 3, 128, 128)).double())
    network("sam_encoder", embedding[0], {prefix + "image_encoder." + n: p for n, p in model.image_encoder.named_parameters()})

    for module in model.mask_decoder.modules():
        if isinstance(module, torch.nn.ConvTranspose2d):
            del module.forward              # networks.sam computes it in float32
    image = tensor("input.image", (1, 32, 8, 8)).double().requires_grad_()
    text = tensor("input.text2", (2, 1, 32)).double().requires_grad_()
    with torch.no_grad():                   # what fs_sam_dense_pe gives, in float32
        pe = networks.TextPrompt(model.prompt_encoder.float()).dense_pe().double()
        model.prompt_encoder.double()
    low = networks.sam_decode(model, image, text, pe)[:, 0]
    leaves = {prefix + "mask_decoder." + n: p for n, p in model.mask_decoder.named_parameters()}
    leaves[prefix + "prompt_encoder.no_mask_embed.weight"] = model.prompt_encoder.no_mask_embed.weight
    network("sam_decoder", low, {**leaves, "image": image, "text": text})

    model = networks.load_region(networks.read_checkpoint(networks.TINY / "MFLM")).double()
    # Of inputs at which no value comes so close to a ReLU's zero (3e-7 at others) that float32 may pass it on the other side.
    levels = [tensor(f"input.other{i}", (64, 64)).double().requires_grad_() for i in range(4)]
    boxes = torch.tensor([[0.1, 0.2, 0.55, 0.7], [0.3, 0.05, 0.95, 0.4]])       # float32, as the C side has them
    leaves = {"model.region_encoder." + n: p for n, p in model.named_parameters()}
    network("region", model(levels, boxes.double()), {**leaves, **{f"level{i}": x for i, x in enumerate(levels)}})

    model = fill(networks.resnet50(8, 3, (1, 2, 1, 1))).double().train()
    logits = model(tensor("input", (5, 3, 61, 75)).double())
    network("resnet", logits, dict(model.named_parameters()))
    for name, t in model.named_buffers():
        if t.is_floating_point():
            results[f"resnet/{name}"] = t.float()           # whole
    save_file({name: t.contiguous() for name, t in sorted(results.items())}, path)


main(sys.argv[1])
