#!/usr/bin/env python3
"""PyTorch's side of bench/train: training steps of one case, as JSON. Wants a Python with torch, transformers, peft and segment_anything.

    OPENBLAS_CORETYPE=SkylakeX python bench/train_torch.py lora [--checkpointing] [--threads 2] [--steps 5]
    OPENBLAS_CORETYPE=SkylakeX python bench/train_torch.py mask [--threads 2] [--steps 5]

lora: the language model's recipe. 4 layers of LLaMA (width 1024, inner 2816, 8 heads, vocabulary 32000), LoRA r 128, alpha 256, no dropout, on all seven
      linear layers, two sequences of 700 ids; cross entropy over the last 300 of each; AdamW 2e-4. The base is F32 and frozen.
mask: the mask decoder's recipe. SAM's decoder at ViT-H's size and text_hidden_fcs 4096 -> 4096 -> 256, two samples whose image features (64x64 of 256)
      and states are given, masks of 1024x1024; 2 BCE + 0.5 dice; gradients also for the states; norm clipped at 1; AdamW 3e-4.

Weights and inputs are by formula (tools/reference/weightgen.py) under the checkpoint's and peft's names, lora_B is 0, so losses can be compared with
another program's: `input.image` [2,256,64,64], `input.state` [2,4096]. Inputs below are by formula as well.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "reference"))

import networks as net
import torch
import training
from torch import nn
from weightgen import fill, tensor

RANK, SEQUENCES, LENGTH, LEARNED, VOCAB = 128, 2, 700, 300, 32000


def resident():
    """Bytes of memory this process has now."""
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")


def lora_case(checkpointing):
    from peft import LoraConfig, get_peft_model
    model = fill(net.llama(dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=8, vocab_size=VOCAB,
                                rms_norm_eps=1e-5, max_position_embeddings=4096, hidden_act="silu")))
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                                             target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
    for name, p in model.named_parameters():
        if ".lora_A." in name:
            p.data.copy_(tensor(name.replace(".default.", "."), p.shape))
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    t, b = torch.arange(LENGTH)[None], torch.arange(SEQUENCES)[:, None]
    ids = 3 + (7 * t * t + 13 * t + 1031 * b) % (VOCAB - 3)
    ids[:, 0] = 1
    labels = ids.clone()
    labels[:, :-LEARNED] = -100
    return (lambda: model(input_ids=ids, labels=labels).loss), [p for p in model.parameters() if p.requires_grad], 2e-4, 0.999, 0.0


def mask_case():
    sam = nn.Module()
    whole = net.sam(1024, 16, 1280, 32, 16, 14, (7, 15, 23, 31), 256, 2048, encoder=False)
    sam.prompt_encoder, sam.mask_decoder = whole.prompt_encoder, whole.mask_decoder
    fill(sam)
    fcs = fill(nn.Sequential(nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 256)), "model.text_hidden_fcs.0.")
    images, states = tensor("input.image", (2, 256, 64, 64)), tensor("input.state", (2, 4096)).requires_grad_()
    y, x = torch.meshgrid(torch.arange(1024), torch.arange(1024), indexing="ij")
    targets = [(4 * (x - 512) ** 2 + 9 * (y - 400 - 100 * i) ** 2 <= 360000).float() for i in range(2)]
    pe = net.TextPrompt(sam.prompt_encoder).dense_pe()

    def loss():
        vectors, bce, dice = fcs(states), 0, 0
        for i, target in enumerate(targets):
            low = net.sam_decode(sam, images[i:i + 1], vectors[i:i + 1, None], pe)[:, :1]
            logits = net.postprocess(low, 1024, (1024, 1024), (1024, 1024))[0]
            bce, dice = bce + training.bce_loss(logits, target), dice + training.dice_loss(logits, target)
        states.grad = None
        return 2.0 * bce / 2 + 0.5 * dice / 2

    return loss, list(sam.mask_decoder.parameters()) + list(fcs.parameters()), 3e-4, 0.95, 1.0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("case", choices=("lora", "mask"))
    p.add_argument("--checkpointing", action="store_true", help="layers are computed again in the backward pass (lora)")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--steps", type=int, default=5, help="timed, after one that is not")
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    imported = resident()
    with torch.enable_grad():
        loss_of, parameters, rate, beta2, clip = lora_case(o.checkpointing) if o.case == "lora" else mask_case()
        ready = resident()
        optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, beta2), eps=1e-8, weight_decay=0.0)
        seconds, losses = [], []
        for _ in range(o.steps + 1):
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], clip)
            optimizer.step()
            losses.append(float(loss))
            seconds.append(time.perf_counter() - start)
            del loss
    print(json.dumps(dict(program="PyTorch " + torch.__version__, case=o.case, checkpointing=o.checkpointing, threads=o.threads,
                          trained=sum(p.numel() for p in parameters), seconds=seconds[1:], median_seconds=statistics.median(seconds[1:]),
                          losses=losses, peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, ready_bytes=ready,
                          imported_bytes=imported)))


if __name__ == "__main__":
    main()
