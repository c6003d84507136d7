"""Golden files of the two training recipes on the tiny checkpoint: losses, gradients, optimizer steps, adapters written by peft.

    tf437/bin/python make_train_goldens.py dte  OUT
    tf428/bin/python make_train_goldens.py mflm OUT

Writes OUT/train/; names, shapes and meaning are in tests/golden/README.md.
"""
import copy
import sys
from pathlib import Path

import networks as net
import pictures
import tiny
import torch
import training
from networks import TINY
from PIL import Image
from training import IGNORE


def save(path, tensors):
    """Like make_goldens.save, but bytes stay bytes."""
    from safetensors.torch import save_file
    out = {}
    for name, value in tensors.items():
        value = torch.as_tensor(value)
        kind = value.float() if value.is_floating_point() else value if value.dtype == torch.uint8 else value.long()
        out[name] = kind.detach().contiguous().clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(out, path)
    print("%-34s %7d bytes" % (path.name, path.stat().st_size), flush=True)


def keep(out, name, tensor, whole=4096, kept=512):
    """Up to `whole` elements NAME itself; of larger tensors NAME.norm, NAME.stride and every stride-th entry as NAME.sample."""
    tensor = tensor.detach()
    if tensor.numel() <= whole:
        out[name] = tensor.clone()
        return
    stride = tensor.numel() // kept
    out[name + ".norm"] = tensor.double().norm().reshape(1)
    out[name + ".stride"] = torch.tensor([stride])
    out[name + ".sample"] = tensor.flatten()[::stride].clone()


def picture(name):
    return Image.fromarray(pictures.scene(*pictures.GOLDEN[name]))


def adamw_steps(parameters, groups, batches, rates, betas, accumulate, loss_of, clip=0.0, limit=None):
    """Optimizer steps over batches in turn; returns what loss_of gave for each micro-batch, and the norms that were clipped."""
    optimizer = torch.optim.AdamW(groups, betas=betas, eps=1e-8, weight_decay=0.0)
    base, told, norms, turn = [g["lr"] for g in optimizer.param_groups], [], [], 0
    for factor in rates:
        for group, rate in zip(optimizer.param_groups, base):
            group["lr"] = rate * factor
        optimizer.zero_grad(set_to_none=True)
        for _ in range(accumulate):
            parts = loss_of(batches[turn % len(batches)])
            (parts[0] / accumulate).backward()
            told.append([float(p.detach()) for p in parts])
            turn += 1
        grads = [p.grad for p in parameters if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        if clip and (norms[-1] + 1e-6) / clip > 1:                     # as DeepSpeed does it
            for g in grads:
                g.div_((norms[-1] + 1e-6) / clip)
        optimizer.step()
    return torch.tensor(told), torch.tensor(norms)


def begin(parameters, saved):
    with torch.no_grad():
        for p, value in zip(parameters, saved):
            p.copy_(value)
            p.grad = None


# ---- stage 1 ---------------------------------------------------------------------------------------------

DTE_SAMPLES = [   # picture, domain, answer; none is what the tiny model says by itself
    (0, 2, tiny.TAMPERED + ", and the tampered area is the sky above the waves. It covers a third of the picture.\n\n2. Judgment basis: The grain of "
           "the sky differs from the grain of the water."),
    (1, 1, tiny.AUTHENTIC + ". The light comes from one side."),
    (1, 0, tiny.TAMPERED + ", and the block at the right was pasted.\n\n2. Judgment basis: Its outline is too sharp."),
    (0, 2, "The picture shows waves and a sun. Nothing in it looks wrong to me, and the perspective is plausible; every shadow falls the same way.")]


def dte(out):
    from transformers import LlamaTokenizer
    tokenizer = LlamaTokenizer.from_pretrained(str(TINY / "DTE-FDM"))
    clip = net.load_clip()
    pixels = torch.cat([net.clip_pixels(picture(n), pad=True) for n in ("wide", "tall")])
    features = net.clip_hidden(clip, pixels)[-2][:, 1:]
    golden = dict(clip=pixels, features=features)
    samples = []
    for i, (which, label, answer) in enumerate(DTE_SAMPLES):
        text = training.USER_SYSTEM + " USER: " + tiny.stage1_question(label) + " ASSISTANT: " + answer + "</s>"
        ids = tiny.tokenize(text, tokenizer)
        labels = training.labels_of(text, ids, tokenizer)
        samples.append((ids, labels, which))
        golden.update({"sample%d.ids" % i: ids, "sample%d.labels" % i: labels, "sample%d.picture" % i: [which]})
        print("sample %d: %d ids, %d learned" % (i, len(ids), sum(t != IGNORE for t in labels)))
    batches = [samples[:2], samples[2:]]

    def run(model, batch):
        rows = model.model.mm_projector(torch.stack([features[s[2]] for s in batch]))
        return training.llama_batch(model, batch, rows)

    model = training.load_dte()
    with torch.no_grad():
        golden["loss_base"] = run(model, batches[0])[3].reshape(1)
    with torch.enable_grad():
        wrapped = training.wrap_dte(model)
        model = wrapped.base_model.model
        names = training.trained(wrapped)
        parameters = list(names.values())
        training.save_adapter(wrapped, out / "train" / "peft_dte")
        saved = [p.detach().clone() for p in parameters]
        _, logits, labels, loss = run(model, batches[0])
        loss.backward()
        golden["loss"] = loss.reshape(1)
        for i in range(2):
            spots = (labels[i] != IGNORE).nonzero()[:, 0] - 1               # the positions that predict the answer
            spots = spots[torch.linspace(0, len(spots) - 1, 16).long()]
            golden.update({"sample%d.positions" % i: spots, "sample%d.logits" % i: logits[i, spots]})
        for name, p in names.items():
            keep(golden, "grad." + name, p.grad, 1 << 20)
        factors = [training.cosine_factor(n, 10, 1) for n in range(10)]
        golden["factors"] = torch.tensor(factors)

        def steps():
            projector = [p for n, p in names.items() if "mm_projector" in n]
            rest = [p for n, p in names.items() if "mm_projector" not in n]
            groups = [dict(params=rest, lr=2e-4), dict(params=projector, lr=2e-5)]
            return adamw_steps(parameters, groups, batches, factors, (0.9, 0.999), 1, lambda b: [run(model, b)[3]])

        begin(parameters, saved)
        golden["steps.losses"], golden["steps.norms"] = steps()
        for name, p in names.items():
            keep(golden, "final." + name, p, 1 << 20)
        begin(parameters, saved)
        training.set_b(wrapped, 0, 0.0)                                     # as an adapter starts
        golden["fresh.losses"], golden["fresh.norms"] = steps()
        for name, p in names.items():
            golden["fresh.norm." + name] = p.double().norm().reshape(1)
    for name in ("steps.losses", "fresh.losses"):
        golden[name] = golden[name][:, 0]
        print(name, " ".join("%.5f" % v for v in golden[name]))
    print("loss %.6f, without the adapter %.6f" % (golden["loss"], golden["loss_base"]))
    save(out / "train" / "dte.safetensors", golden)


# ---- stage 2 ---------------------------------------------------------------------------------------------

MFLM_SAMPLES = [   # picture, explanation, question, answer
    (0, tiny.ANSWERS[0], 0, "It is [SEG]."),
    (1, "1. The tall stripe was painted over.\n\n2. Its edge is soft.", 2, "[SEG]."),
    (1, tiny.ANSWERS[2], 1, "Sure, the segmentation result is [SEG]."),
    (0, "1. The sun is too round.", 0, "Sure, it is [SEG].")]
MFLM_PICTURES = ("wide", "tall")


def drawn_masks():
    """One for each sample, uint8 [h, w] at the picture's size: ellipse, rectangle, ellipse, two rectangles."""
    def grid(h, w):
        return torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    y, x = grid(90, 131)
    v, u = grid(160, 75)
    return [m.to(torch.uint8) for m in (
        (x - 70) ** 2 * 400 + (y - 40) ** 2 * 900 <= 360000, (u >= 10) & (u < 40) & (v >= 100) & (v < 150),
        (u - 50) ** 2 + (v - 60) ** 2 <= 324, (x >= 90) & (y < 30) | (x < 25) & (y >= 70))]


def mflm(out):
    from half import Rounded
    from transformers import LlamaTokenizer
    tokenizer = LlamaTokenizer.from_pretrained(str(TINY / "MFLM"), padding_side="right")
    clip, model = net.load_clip(), training.load_mflm()
    shown = [picture(n) for n in MFLM_PICTURES]
    pixels = torch.cat([net.clip_pixels(p, pad=False) for p in shown])
    features = net.clip_hidden(clip, pixels)[-2][:, 1:]
    rows = model.model.mm_projector(features)                              # the projector is frozen here
    resized = [net.sam_pixels(p, 128) for p in shown]
    embeddings = torch.cat([net.sam_encode(model.model.grounding_encoder, x)["neck"] for x, _ in resized])
    rounded = copy.deepcopy(model.model.grounding_encoder.prompt_encoder).bfloat16()
    with Rounded(torch.bfloat16):                                          # the phases as a bf16 checkpoint has them
        pe = net.TextPrompt(rounded).dense_pe().float()
    golden = dict(clip=pixels, features=features, image_rows=rows, sam=torch.cat([x for x, _ in resized]),
                  sam_size=torch.tensor([s for _, s in resized]), image_embedding=embeddings, pe=pe[0])
    samples, masks, seg = [], drawn_masks(), tiny.VOCAB + tiny.ADDED.index("[SEG]")
    for i, (which, told, question, answer) in enumerate(MFLM_SAMPLES):
        text = tiny.conversation(tiny.stage2_question(tiny.stage2_body(told, "test%d" % question)), answer)
        ids = tiny.tokenize(text, tokenizer)
        labels = training.labels_of(text, ids, tokenizer)
        spot = ids.index(seg) + len(rows[0]) - 2                           # where [SEG] is predicted, in the expanded sequence
        samples.append((ids, labels, which, spot, masks[i]))
        golden.update({"sample%d.ids" % i: ids, "sample%d.labels" % i: labels, "sample%d.picture" % i: [which],
                       "sample%d.position" % i: [spot], "sample%d.mask" % i: masks[i]})
        print("sample %d: %d ids, learned %s" % (i, len(ids), [t for t in labels if t != IGNORE]))
    batches = [samples[:2], samples[2:]]

    def run(batch, trace=None):
        """Total, cross entropy, 2 bce, 0.5 dice."""
        hidden, _, _, ce = training.llama_batch(model, batch, [rows[s[2]] for s in batch])
        bce = dice = 0
        for i, (_, _, which, spot, mask) in enumerate(batch):
            state = hidden[i, spot]
            vector = model.model.text_hidden_fcs[0](state[None])
            low = net.sam_decode(model.model.grounding_encoder, embeddings[which:which + 1], vector[:, None], pe)[:, :1]
            logits = net.postprocess(low, 128, resized[which][1], mask.shape)
            target = mask[None].float()
            bce, dice = bce + training.bce_loss(logits[0], target[0]), dice + training.dice_loss(logits[0], target[0])
            if trace is not None:
                trace.update({"sample%d.state" % i: state, "sample%d.vector" % i: vector[0], "sample%d.low_res" % i: low[0, 0],
                              "sample%d.logits" % i: logits[0]})
        bce, dice = 2.0 * bce / (len(batch) + 1e-8), 0.5 * dice / (len(batch) + 1e-8)
        return [ce + bce + dice, ce, bce, dice]

    with torch.no_grad():
        golden["losses_base"] = torch.stack(run(batches[0]))
    with torch.enable_grad():
        wrapped = training.wrap_mflm(model)
        names = training.trained(wrapped)
        parameters = list(names.values())
        training.save_adapter(wrapped, out / "train" / "peft_mflm", forms=(True,), rest=False)
        saved = [p.detach().clone() for p in parameters]
        losses = run(batches[0], golden)
        losses[0].backward()
        golden["losses"] = torch.stack(losses)
        golden["norm"] = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().reshape(1)
        # No gradient: the score head and the masks that are not used; nothing but rounding noise: a bias on all keys, which softmax does not see.
        # AdamW makes steps of the rate's size of any noise, so neither gradient nor result of these is kept.
        idle = [n for n, p in names.items() if p.grad is None or not p.grad.any() or n.endswith("k_proj.bias")]
        print("left out: %s" % sorted({n.split("mask_decoder.")[-1].rsplit(".", 3)[0] for n in idle}))
        for name, p in names.items():
            if name not in idle:
                keep(golden, "grad." + name, p.grad, 1 << 20)
            else:
                assert p.grad is None or p.grad.norm() < 1e-7 * golden["norm"]

        def steps(name, factors):
            begin(parameters, saved)
            losses, norms = adamw_steps(parameters, [dict(params=parameters, lr=3e-4)], batches, factors, (0.9, 0.95), 2, run, clip=1.0)
            golden.update({name + ".factors": torch.tensor(factors), name + ".losses": losses, name + ".norms": norms})
            for n, p in names.items():
                if n not in idle:
                    keep(golden, name + ".final." + n, p, *((1024, 512) if name == "steps" else (128, 128)))
            print(name, "norms", " ".join("%.4f" % v for v in norms))
            for row in losses:
                print("  %.5f = ce %.5f + bce %.5f + dice %.5f" % tuple(row))

        steps("steps", [training.linear_gamma(n, 10, 2) for n in range(10)])
        steps("upstream", [1.0] + [training.linear_gamma(n, 1000, 100) for n in range(4)])
    save(out / "train" / "mflm.safetensors", golden)


if __name__ == "__main__":
    {"dte": dte, "mflm": mflm}[sys.argv[1]](Path(sys.argv[2]))
