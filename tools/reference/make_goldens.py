"""Golden files of the tiny checkpoint: single networks, reduced precision, both stages end to end.

    tf437/bin/python make_goldens.py dte  OUT      # DTG, CLIP, stage 1 (must run first: stage 2 reads its texts)
    tf428/bin/python make_goldens.py mflm OUT      # SAM, region encoder, stage 2

Names, shapes and meaning of everything written are in tests/golden/README.md.
"""
import json
import sys
from pathlib import Path

import networks as net
import numpy as np
import pictures
import tiny
import torch
from half import Rounded
from networks import TINY
from PIL import Image
from torch.nn import functional as F
from weightgen import fill, tensor


def save(path, tensors):
    from safetensors.torch import save_file
    out = {}
    for name, value in tensors.items():
        value = torch.as_tensor(value)
        out[name] = (value.float() if value.is_floating_point() else value.long()).contiguous().clone()
    save_file(out, path)
    print("%-34s %7d bytes" % (path.name, path.stat().st_size), flush=True)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def margin(logits):
    top = logits.float().topk(2, -1).values
    return (top[..., 0] - top[..., 1]).min().reshape(1)


# ---- one network after the other -------------------------------------------------------------------------

def golden_dtg(out):
    model = net.load_dtg()
    result = net.resnet_stages(model, tensor("input", (1, 3, 64, 96)))
    result["logits_224"] = net.resnet_stages(model, tensor("input", (1, 3, 224, 224)))["logits"]
    save(out / "dtg.safetensors", result)


def clip_states(model, pixels):
    hidden = net.clip_hidden(model, pixels)
    picked = {"hidden_%d" % i: hidden[i][0] for i in (0, 1, 4, 7, 10)}
    picked["selected"] = hidden[-2][0, 1:]
    return picked


def llama_sample(model, name, vocab):
    """24 ids, eight of which are image rows, through the whole network."""
    rng = np.random.default_rng(5)
    ids = torch.from_numpy(rng.integers(3, vocab, 24))
    ids[0], ids[4:12] = 1, tiny.IMAGE_ID
    embeds = model.get_input_embeddings()(ids.clamp(min=0))
    embeds[4:12] = tensor("input", (8, 64)).to(embeds.dtype)
    trace = net.llama_trace(model, embeds[None])
    return {name + ".ids": ids, name + ".embeds": embeds, **{name + "." + k: v for k, v in trace.items()}}


def random_llama():
    """A formula-weighted LLaMA continues a prompt greedily with its cache."""
    model = fill(net.llama(tiny.DTE))
    prompt = torch.tensor([1] + [17 + 41 * i % 600 for i in range(11)])
    ids, cache, logits, last = prompt[None], None, [], []
    for _ in range(64):
        result = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        logits.append(result.logits[0, -1])
        last.append(int(logits[-1].argmax()))
        ids = torch.tensor([[last[-1]]])
    return {"random.prompt": prompt, "random.continuation": torch.tensor(last), "random.first_logits": logits[0],
            "random.last_logits": logits[-1], "random.min_margin": margin(torch.stack(logits))}


# ---- stage 1 ---------------------------------------------------------------------------------------------

def score(model, tokenizer, prompt, prompt_ids, rows):
    """Log probabilities of the two verdict sentences at the decision point."""
    result = {}
    for name, sentence in (("tampered", tiny.TAMPERED), ("authentic", tiny.AUTHENTIC)):
        ids = tiny.tokenize(prompt + " " + sentence, tokenizer)
        assert ids[:len(prompt_ids)] == prompt_ids
        rest = ids[len(prompt_ids):]
        logits = model(inputs_embeds=net.embed(model, ids, rows), use_cache=False).logits[0]
        chosen = F.log_softmax(logits[-len(rest) - 1:-1], -1)[torch.arange(len(rest)), rest]
        result["score.%s_ids" % name], result["score.%s_logprobs" % name] = torch.tensor(rest), chosen
    return result


def stage1(out):
    from transformers import AutoTokenizer, LlamaTokenizer
    tokenizer = LlamaTokenizer.from_pretrained(str(TINY / "DTE-FDM"))
    weights = net.read_checkpoint(TINY / "DTE-FDM")
    model, projector = net.load_llama(TINY / "DTE-FDM", weights), net.load_projector(weights)
    dtg, clip = net.load_dtg(), net.load_clip()
    for name, recipe in pictures.GOLDEN.items():
        Image.fromarray(pictures.scene(*recipe)).save(out / ("e2e_%s.png" % name), optimize=True)
        picture = Image.open(out / ("e2e_%s.png" % name)).convert("RGB")
        logits = net.resnet_stages(dtg, net.dtg_pixels(picture))["logits"][0]
        label = int(logits.argmax())
        prompt = tiny.conversation(tiny.stage1_question(label))
        prompt_ids = tiny.tokenize(prompt, tokenizer)
        pixels = net.clip_pixels(picture, pad=True)
        rows = projector(net.clip_hidden(clip, pixels)[-2][0, 1:])
        embeds = net.embed(model, prompt_ids, rows)
        generated = model.generate(inputs_embeds=embeds, do_sample=False, max_new_tokens=400)[0]
        assert int(generated[0]) == 1                    # the library's implicit <s> in front of the new ids
        new = generated[1:].tolist()
        check = model(inputs_embeds=net.embed(model, prompt_ids + new[:-1], rows), use_cache=False).logits[0]
        along = check[-len(new):]
        assert along.argmax(-1).tolist() == new, "cached and uncached decoding differ"
        recorded = tokenizer.decode(generated).strip().replace("<s>", "").replace("</s>", "")
        plain = tokenizer.batch_decode(generated[None], skip_special_tokens=True)[0].strip()
        save(out / ("e2e_%s_dte.safetensors" % name), dict(
            dtg_logits=logits, clip_input_sum=pixels[0].double().sum((1, 2)).float(), image_rows=rows, prompt_ids=prompt_ids,
            ids=new, first_logits=along[0], min_margin=margin(along), **score(model, tokenizer, prompt, prompt_ids, rows)))
        write_json(out / ("e2e_%s_dte.json" % name), dict(
            image="e2e_%s.png" % name, width=picture.width, height=picture.height, label=label, domain=tiny.DOMAIN[label],
            prompt=prompt, answer=tokenizer.decode(new, skip_special_tokens=True), outputs_cli=recorded,
            outputs_test=plain))
        print("%s: label %d (%s), %d prompt ids, %d new, margin %.2f: %s" % (
            name, label, ["%.1f" % v for v in logits], len(prompt_ids), len(new), margin(along), plain[-60:]))


def dte(out):
    golden_dtg(out)
    save(out / "clip.safetensors", clip_states(net.load_clip(), tensor("input", (1, 3, 112, 112))))
    weights, other = net.read_checkpoint(TINY / "DTE-FDM"), net.read_checkpoint(TINY / "MFLM")
    rows = tensor("input", (64, 64))
    save(out / "projector.safetensors", {"dte": net.load_projector(weights)(rows), "mflm": net.load_projector(other)(rows)})
    model = net.load_llama(TINY / "DTE-FDM", weights)
    save(out / "llama.safetensors", {**llama_sample(model, "dte", tiny.VOCAB), **llama_sample(
        net.load_llama(TINY / "MFLM", other), "mflm", tiny.VOCAB + 7), **random_llama()})
    half_llama(out)
    stage1(out)


def half_llama(out):
    model = net.load_llama(TINY / "DTE-FDM", net.read_checkpoint(TINY / "DTE-FDM")).half()
    with Rounded(torch.float16):
        sample = llama_sample(model, "dte", tiny.VOCAB)
    sample.pop("dte.ids")
    for name, value in sample.items():
        assert torch.equal(value.half().float(), value.float()), name
    save(out / "llama_f16.safetensors", sample)


# ---- stage 2 ---------------------------------------------------------------------------------------------

def sam_golden(model, dtype=torch.float32):
    result = {k: v[0] for k, v in net.sam_encode(model, tensor("input", (1, 3, 128, 128)).to(dtype)).items()}
    pe = net.TextPrompt(model.prompt_encoder).dense_pe()
    masks = net.sam_decode(model, result["neck"][None], tensor("input.text", (1, 1, 32)).to(dtype), pe)
    post = net.postprocess(masks[:, :1], 128, (88, 128), (90, 131))[0]
    return result, pe, masks, post


def golden_sam(out, weights):
    model = net.load_sam(weights)
    result, pe, masks, post = sam_golden(model)
    rounded = net.load_sam(weights).bfloat16()
    with Rounded(torch.bfloat16):
        pe_bf16 = net.TextPrompt(rounded.prompt_encoder).dense_pe().float()
    assert torch.equal(model.image_encoder(tensor("input", (1, 3, 128, 128)))[0], result["neck"])
    assert torch.equal(model.prompt_encoder.get_dense_pe(), pe)          # ours exists for its bfloat16 variant only
    embedding, text = result["neck"][None], tensor("input.text", (1, 1, 32))
    two = net.sam_decode(model, embedding, tensor("input.text2", (2, 1, 32)), pe)[:, 0]
    save(out / "sam.safetensors", dict(
        result, pe_f32=pe[0], pe_bf16=pe_bf16[0], low_res=masks[0, :1], masks_all=masks[0], low_res_two=two,
        low_res_pe_bf16=net.sam_decode(model, embedding, text, pe_bf16)[0, :1], post=post,
        post_tall=net.postprocess(masks[:, :1], 128, (128, 60), (160, 75))[0]))
    assert (pe[0] - pe_bf16[0]).abs().max() > 0.01
    with Rounded(torch.bfloat16):
        result, pe, masks, post = sam_golden(rounded, torch.bfloat16)
    save(out / "sam_bf16.safetensors", dict(result, pe=pe[0], low_res=masks[0, :1], post=post))


def golden_region(out, weights):
    model = net.load_region(weights)
    boxes = torch.tensor([[0.05, 0.1, 0.3, 0.42], [0.2, 0.15, 0.9, 0.7]])
    trace = {}
    result = model([tensor("input.level%d" % i, (64, 64)) for i in range(4)], boxes, trace)
    save(out / "region.safetensors", dict(
        {"fused_%d" % i: x[0, :, ::8 >> i, ::8 >> i] for i, x in enumerate(trace["fused"])}, boxes=boxes,
        resized_0=trace["maps"][0][0, :, ::8, ::8], roi_0=trace["roi"][0], roi_sum=trace["sum"], pos=trace["pos"], out=result))


def seg_vectors(model, fcs, ids, rows, first=0):
    """State and vector of every [SEG] among ids[first:], from one pass over the whole sequence."""
    seg = tiny.VOCAB + tiny.ADDED.index("[SEG]")
    spots = [k + len(rows) - 2 for k, i in enumerate(ids) if i == seg and k >= first]
    final = net.llama_trace(model, net.embed(model, ids, rows))["final"]
    return spots, final[spots], fcs(final[spots])


def golden_seg(out, weights, tokenizer):
    ids = tiny.tokenize(tiny.conversation(tiny.stage2_question(" " + tiny.ANSWERS[0]), tiny.SEG_ANSWER), tokenizer)
    pixels = tensor("input", (1, 3, 112, 112))
    for dtype, name in ((torch.float32, "seg"), (torch.bfloat16, "seg_bf16")):
        clip, model = net.load_clip().to(dtype), net.load_llama(TINY / "MFLM", weights).to(dtype)
        projector, fcs = net.load_projector(weights).to(dtype), net.load_text_fcs(weights).to(dtype)
        with Rounded(torch.bfloat16):        # nothing changes for float32
            rows = projector(net.clip_hidden(clip, pixels.to(dtype))[-2][0, 1:])
            spots, state, vector = seg_vectors(model, fcs, ids, rows)
        result = dict(state=state[0], vector=vector[0])
        if dtype == torch.float32:
            result.update(ids=ids, expanded=[len(ids) + 63], position=spots, relu=fcs[1](fcs[0](state[0])))
        save(out / (name + ".safetensors"), result)


def golden_bf16(out, weights):
    model = net.load_llama(TINY / "MFLM", weights).bfloat16()
    clip = net.load_clip().bfloat16()
    with Rounded(torch.bfloat16):
        sample = llama_sample(model, "mflm", tiny.VOCAB + 7)
        states = clip_states(clip, tensor("input", (1, 3, 112, 112)).bfloat16())
    sample.pop("mflm.ids")
    save(out / "llama_bf16.safetensors", sample)
    save(out / "clip_bf16.safetensors", states)


def stage2(out, weights, tokenizer):
    model, projector = net.load_llama(TINY / "MFLM", weights), net.load_projector(weights)
    clip, sam, fcs = net.load_clip(), net.load_sam(weights), net.load_text_fcs(weights)
    # The original computes stage 2 in bfloat16, whose rounding of the positional encoding's phases is visible in the mask and part of what the
    # checkpoint was trained with: kept here too.
    with Rounded(torch.bfloat16):
        pe = net.TextPrompt(net.load_sam(weights).bfloat16().prompt_encoder).dense_pe().float()
    for name in pictures.GOLDEN:
        told = json.loads((out / ("e2e_%s_dte.json" % name)).read_text())
        if "has not been tampered with" in told["outputs_cli"]:
            continue
        picture = Image.open(out / ("e2e_%s.png" % name)).convert("RGB")
        rows = projector(net.clip_hidden(clip, net.clip_pixels(picture, pad=False))[-2][0, 1:])
        pixels, size = net.sam_pixels(picture, 128)
        embedding = net.sam_encode(sam, pixels)["neck"]
        result, texts = dict(image_rows=rows, sam_input_sum=pixels[0].double().sum((1, 2)).float(),
                             image_embedding=embedding[0]), {}
        for style in ("demo", "test0", "test1", "test2")[:2 if name == "large" else 4]:
            body = tiny.stage2_body(told["outputs_cli" if style == "demo" else "outputs_test"], style)
            prompt = tiny.conversation(tiny.stage2_question(body))
            ids = prompt_ids = tiny.tokenize(prompt, tokenizer)
            while len(ids) < len(prompt_ids) + 512 and (ids is prompt_ids or ids[-1] != 2):
                logits = model(inputs_embeds=net.embed(model, ids, rows), use_cache=False).logits[0, -1]
                ids = ids + [int(logits.argmax())]       # the whole sequence anew for each id, as the original does
            new = ids[len(prompt_ids):]
            spots, state, vector = seg_vectors(model, fcs, ids[:-1], rows)
            low = net.sam_decode(sam, embedding, vector[:, None], pe)[:, :1]
            mask = net.postprocess(low, 128, size, (picture.height, picture.width))
            Image.fromarray(((mask[-1] > 0).numpy() * 255).astype(np.uint8)).save(
                out / ("e2e_%s_%s_mask.png" % (name, style)), optimize=True)
            shown = tokenizer.decode([i for i in ids if i >= 0], skip_special_tokens=False)
            shown = shown.replace("\n", "").replace("  ", " ").split("ASSISTANT: ")[-1]
            texts[style] = dict(body=body, prompt=prompt, output=shown)
            result.update({style + ".prompt_ids": torch.tensor(prompt_ids), style + ".ids": torch.tensor(new),
                           style + ".state": state, style + ".vector": vector, style + ".low_res": low[:, 0]})
            if style in ("demo", "test0"):
                result[style + ".logits"] = mask[0]
            print("%s %s: %d prompt ids, %r, mask %.2f, nearest to zero %.1e" % (
                name, style, len(prompt_ids), shown, (mask > 0).float().mean(), mask.abs().min()))
        save(out / ("e2e_%s_mflm.safetensors" % name), result)
        write_json(out / ("e2e_%s_mflm.json" % name), texts)


def mflm(out):
    from transformers import AutoTokenizer, LlamaTokenizer
    tokenizer = LlamaTokenizer.from_pretrained(str(TINY / "MFLM"), padding_side="right")
    weights = net.read_checkpoint(TINY / "MFLM")
    golden_sam(out, weights)
    golden_region(out, weights)
    golden_seg(out, weights, tokenizer)
    golden_bf16(out, weights)
    stage2(out, weights, tokenizer)


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    {"dte": dte, "mflm": mflm}[sys.argv[1]](folder)
