"""Makes models/tiny/: a FakeShield checkpoint of a few megabytes in the original's exact layout on disk.

Weights are random (seeded), with four exceptions that make it useful for tests: the two language models (and
their projectors) are taught fixed texts by rote; DTG's last layer is fitted so that all three labels occur
(reddish, greenish, bluish pictures); one bias of the mask decoder is set so that masks are neither empty
nor full. Bright pictures are answered "not tampered", dark ones "tampered". Its answers mean nothing.

    $FAKESHIELD_REF_ENV/tf437/bin/python make_tiny.py vision     # DTG.pth, clip-vit-tiny, the tokenizer model
    $FAKESHIELD_REF_ENV/tf437/bin/python make_tiny.py dte        # DTE-FDM
    $FAKESHIELD_REF_ENV/tf428/bin/python make_tiny.py mflm       # MFLM
"""
import io
import json
import math
import random
import shutil
import sys

import networks as net
import numpy as np
import pictures
import tiny
import torch
from networks import TINY
from PIL import Image
from torch import nn
from torch.nn import functional as F

IGNORE = -100


def rng_for(name):
    generator = torch.Generator()
    generator.manual_seed(tiny.SEED + sum(name.encode()))
    return generator


def randomize(module, generator):
    """Linear and convolution weights N(0, 1/fan_in), small biases, norms near 1, embeddings of size 0.5."""
    for name, p in sorted(module.state_dict(keep_vars=True).items()):
        if not p.is_floating_point():
            continue
        noise = torch.randn(p.shape, generator=generator)
        if name.endswith("running_var"):
            value = 1 + 0.3 * torch.tanh(noise)
        elif name.endswith("running_mean") or name.endswith("bias"):
            value = 0.1 * noise
        elif "gaussian_matrix" in name:
            value = noise
        elif "rel_pos" in name:
            value = 0.2 * noise
        elif p.ndim == 1 and "class_embedding" not in name:
            value = 1 + 0.1 * noise
        elif p.ndim == 1 or "embedding" in name and p.ndim == 2 or name.endswith(("pos_embed", "_embed.weight")) \
                or "token" in name.split(".")[-2] or "point_embeddings" in name:
            value = 0.5 * noise
        else:
            fan_in = p.shape[0] if "output_upscaling" in name and p.ndim == 4 else math.prod(p.shape[1:])
            value = noise / math.sqrt(fan_in)
        p.data.copy_(value)
    return module


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def save_shards(folder, tensors, pattern, index_name, save):
    """Two shards of about equal size and the index file, named as transformers names them."""
    total = sum(v.numel() * v.element_size() for v in tensors.values())
    shards, size = [{}, {}], 0
    for name, value in tensors.items():
        shards[0 if size < total / 2 else 1][name] = value.contiguous()
        size += value.numel() * value.element_size()
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = pattern % (i, 2)
        save(shard, folder / file)
        weight_map.update({name: file for name in shard})
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"
    (folder / index_name).write_text(text)


# ---- tokenizer, DTG, CLIP --------------------------------------------------------------------------------

def train_tokenizer():
    import sentencepiece
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny.corpus()), model_writer=model, model_type="bpe", vocab_size=tiny.VOCAB,
        byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        num_threads=1, minloglevel=2)
    return model.getvalue()


def fit_labels(model):
    """DTG's last layer by ridge regression on the pooled features: label = the picture's tint."""
    rng = np.random.default_rng(tiny.SEED)
    hues = [i % 3 for i in range(240)]
    inputs = [net.dtg_pixels(Image.fromarray(pictures.random_scene(rng, rng.random() < 0.5, h))) for h in hues]
    pooled = torch.cat([model.avgpool(net.resnet_stages(model, x)["stage4"]).flatten(1) for x in inputs])
    x = torch.cat([pooled, torch.ones(len(pooled), 1)], 1).double()
    target = 6 * F.one_hot(torch.tensor(hues), 3).double() - 2
    train = slice(0, 180)
    ridge = 1e-3 * torch.eye(x.shape[1], dtype=torch.double) * x.pow(2).mean()
    w = torch.linalg.solve(x[train].T @ x[train] / 180 + ridge, x[train].T @ target[train] / 180)
    model.fc.weight.data.copy_(w[:-1].T)
    model.fc.bias.data.copy_(w[-1])
    held_out = (model.fc(pooled[180:]).argmax(1) == torch.tensor(hues[180:])).float().mean()
    print("DTG: held-out accuracy %.3f, largest last-layer weight %.2f" % (held_out, model.fc.weight.abs().max()))


def make_vision():
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel
    TINY.mkdir(parents=True, exist_ok=True)
    dtg = randomize(net.resnet50(tiny.DTG_WIDTH), rng_for("dtg"))
    fit_labels(dtg)
    torch.save(dtg.state_dict(), TINY / "DTG.pth")

    folder = TINY / "clip-vit-tiny"
    folder.mkdir(exist_ok=True)
    clip = randomize(CLIPVisionModel(CLIPVisionConfig(**tiny.CLIP)), rng_for("clip"))
    state = dict(clip.state_dict())
    # what the hub file carries besides the vision tower and a reader must pass over
    state["vision_model.embeddings.position_ids"] = torch.arange(65)[None]
    state["logit_scale"] = torch.tensor(4.6052)
    state["visual_projection.weight"] = torch.randn(32, 64, generator=rng_for("visual")) / 8
    state["text_model.final_layer_norm.weight"] = torch.ones(32)
    torch.save(state, folder / "pytorch_model.bin")
    vision = dict(tiny.CLIP, model_type="clip_vision_model", num_channels=3, initializer_factor=1.0,
                  initializer_range=0.02)
    text = dict(model_type="clip_text_model", hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                num_attention_heads=2, vocab_size=64, max_position_embeddings=16, hidden_act="quick_gelu",
                layer_norm_eps=1e-5, projection_dim=32)
    write_json(folder / "config.json", dict(architectures=["CLIPModel"], model_type="clip", projection_dim=32,
                                            logit_scale_init_value=2.6592, initializer_factor=1.0,
                                            torch_dtype="float32", text_config=text, vision_config=vision))
    write_json(folder / "preprocessor_config.json", {
        "crop_size": 112, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 112})
    assert CLIPImageProcessor.from_pretrained(str(folder)).crop_size == {"height": 112, "width": 112}
    for name in ("DTE-FDM", "MFLM"):
        (TINY / name).mkdir(exist_ok=True)
        (TINY / name / "tokenizer.model").write_bytes(train_tokenizer())


# ---- teaching by rote ------------------------------------------------------------------------------------

def samples_of_pictures(count, pad, clip, seed):
    """(features [NP, C], bright) of random pictures; every eighth is plain noise, taught as dark or bright too."""
    rng, out = np.random.default_rng(seed), []
    for i in range(count):
        bright, hue = bool(i % 2), int(rng.integers(3))
        array = pictures.random_scene(rng, bright, hue)
        if i % 8 >= 6:
            low, high = (110, 256) if bright else (0, 150)
            array = rng.integers(low, high, array.shape).astype(np.uint8)
        hidden = net.clip_hidden(clip, net.clip_pixels(Image.fromarray(array), pad))[-2][0, 1:]
        out.append((hidden, bright))
    return out


def batch_embeds(model, projector, batch):
    """batch: list of (prompt ids, answer ids, features) -> padded embeddings and labels."""
    table, rows, labels = model.get_input_embeddings(), [], []
    features = projector(torch.stack([f for _, _, f in batch]))
    for (prompt, answer, _), image in zip(batch, features):
        at = prompt.index(tiny.IMAGE_ID)
        text = torch.tensor(prompt[:at] + prompt[at + 1:] + answer)
        e = table(text)
        rows.append(torch.cat([e[:at], image, e[at:]]))
        labels.append(torch.tensor([IGNORE] * (len(prompt) - 1 + len(image)) + answer))
    longest = max(len(r) for r in rows)
    embeds = torch.stack([F.pad(r, (0, 0, 0, longest - len(r))) for r in rows])
    targets = torch.stack([F.pad(t, (0, longest - len(t)), value=IGNORE) for t in labels])
    return embeds, targets


def forks(answers):
    """For each answer the places where another one, equal so far, goes on differently."""
    places = set()
    for a in answers:
        for b in answers:
            same = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
            if same is not None:
                places.add((tuple(a), same))
    return places


def teach(model, projector, draw, steps, batch, rate, goal, answers):
    """AdamW on the answers' cross entropy until `goal` (mean of the last 20 losses) or `steps`.

    The ids at which answers part ways count thirty times: all the others are learned at once.
    """
    important = forks(answers)
    parameters = list(model.parameters()) + list(projector.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    recent = []
    with torch.enable_grad():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
            drawn = [draw() for _ in range(batch)]
            embeds, targets = batch_embeds(model, projector, drawn)
            hidden = model.model(inputs_embeds=embeds, use_cache=False)[0][:, :-1]
            wanted = targets[:, 1:]
            used = wanted != IGNORE
            weight = torch.tensor([30.0 if (tuple(a), i) in important else 1.0 for _, a, _ in drawn
                                   for i in range(len(a))])
            loss = F.cross_entropy(model.lm_head(hidden[used]), wanted[used], reduction="none")
            loss = (loss * weight).sum() / weight.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            recent = (recent + [loss.item()])[-20:]
            if step % 25 == 0:
                print("step %d loss %.4f" % (step, loss.item()), flush=True)
            if len(recent) == 20 and sum(recent) / 20 < goal:
                break
    print("taught: %d steps, last losses %.5f" % (step + 1, sum(recent) / len(recent)))


def drop_words(text, chance, source):
    return " ".join(w for w in text.split(" ") if source.random() >= chance)


def fresh_llama(fields, generator):
    model = net.llama(fields)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            p.data.copy_(torch.randn(p.shape, generator=generator)
                         * (0.5 if "embed_tokens" in name else 1 / math.sqrt(p.shape[1])))
    return model


def fresh_projector(hidden, width, generator):
    return randomize(nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden)), generator)


COMMON_CONFIG = dict(hidden_act="silu", initializer_range=0.02, bos_token_id=1, eos_token_id=2, pad_token_id=0,
                     tie_word_embeddings=False, freeze_mm_mlp_adapter=False, image_grid_pinpoints=None,
                     mm_hidden_size=64, mm_vision_select_feature="patch", mm_vision_select_layer=-2,
                     mm_vision_tower="../clip-vit-tiny", tune_mm_mlp_adapter=False, use_mm_proj=True)


def make_dte():
    from safetensors.torch import save_file
    from transformers import LlamaTokenizer
    folder = TINY / "DTE-FDM"
    model_file = str(folder / "tokenizer.model")
    tokenizer = LlamaTokenizer(model_file, legacy=False, model_max_length=2048, padding_side="right",
                               clean_up_tokenization_spaces=False)
    tokenizer.save_pretrained(str(folder))
    generator, source = rng_for("dte"), random.Random(tiny.SEED)
    model, projector = fresh_llama(tiny.DTE, generator), fresh_projector(64, 64, generator)
    shown = samples_of_pictures(256, True, net.load_clip(), tiny.SEED + 1)

    def ids(label, question):
        return tiny.tokenize(tiny.conversation(tiny.stage1_question(label, question)), tokenizer)

    # The answer's own text is " 1. Whether ...": the prompt is a prefix of the whole turn's ids.
    full = [tiny.tokenize(tiny.conversation(tiny.stage1_question(0), a), tokenizer) for a in tiny.ANSWERS]
    start = len(ids(0, tiny.QUESTION))
    answers = [f[start:] for f in full]
    print("prompt of %d ids, answers of %s" % (start, [len(a) for a in answers]))
    assert all(f[:start] == ids(0, tiny.QUESTION) and f[-1] == 2 for f in full)
    assert all(len(a) >= 80 for a in answers[:3])
    plain = [ids(label, tiny.QUESTION) for label in range(3)]

    def draw():
        label, (features, bright) = source.randrange(3), source.choice(shown)
        kind = source.random()
        prompt = plain[label] if kind < 0.7 else ids(label, drop_words(tiny.QUESTION, source.random(), source))
        return prompt, answers[3 if bright else label], features

    teach(model, projector, draw, 800, 6, 3e-3, 0.003, answers)
    state = {k: v for k, v in model.state_dict().items() if "inv_freq" not in k}
    state.update({"model.mm_projector." + k: v for k, v in projector.state_dict().items()})
    save_shards(folder, {k: v.half() for k, v in state.items()}, "model-%05d-of-%05d.safetensors",
                "model.safetensors.index.json", lambda t, path: save_file(t, path, metadata={"format": "pt"}))
    write_json(folder / "config.json", dict(
        COMMON_CONFIG, _name_or_path="tiny", architectures=["LlavaLlamaForCausalLM"], attention_bias=False,
        attention_dropout=0.0, model_type="llava_llama", image_aspect_ratio="pad", mm_patch_merge_type="flat",
        mm_projector_lr=None, mm_projector_type="mlp2x_gelu", mm_use_im_patch_token=False, mm_use_im_start_end=False,
        pretraining_tp=1, rope_scaling=None, rope_theta=10000.0, tokenizer_model_max_length=2048,
        tokenizer_padding_side="right", torch_dtype="float16", transformers_version="4.37.2",
        unfreeze_mm_vision_tower=False, use_cache=True,
        **{k: tiny.DTE[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                    "num_key_value_heads", "vocab_size", "rms_norm_eps", "max_position_embeddings")}))
    write_json(folder / "generation_config.json", dict(
        _from_model_config=True, bos_token_id=1, eos_token_id=2, pad_token_id=0, temperature=0.9, top_p=0.6,
        transformers_version="4.37.2"))


# ---- MFLM ------------------------------------------------------------------------------------------------

def balance_masks(model, text_fcs, states):
    """Shifts one bias so that mask logits average to zero over pictures, and scales them to a few units."""
    rng = np.random.default_rng(tiny.SEED + 7)
    shots = [net.sam_pixels(Image.fromarray(pictures.random_scene(rng, i % 2 == 0, i % 3)), tiny.SAM["image"])
             for i in range(18)]
    features = [net.sam_encode(model, x)["neck"] for x, _ in shots]
    text = text_fcs(states.mean(0, keepdim=True))[None]
    last = model.mask_decoder.output_hypernetworks_mlps[0].layers[2]
    seen = []
    hook = model.mask_decoder.output_upscaling.register_forward_hook(lambda m, a, r: seen.append(r[0].flatten(1)))
    logits = torch.cat([net.sam_decode(model, f, text)[:, 0] for f in features])
    hook.remove()
    mean_up = torch.cat(seen, 1).mean(1)
    gain = 4 / logits.std()
    last.weight.data *= gain
    last.bias.data = gain * (last.bias.data - logits.mean() / mean_up.dot(mean_up) * mean_up)
    for (x, size), f in zip(shots, features):
        mask = net.sam_decode(model, f, text)[:, :1, :size[0] // 4, :size[1] // 4]
        print("mask: %.2f positive, std %.2f" % ((mask > 0).float().mean(), mask.std()))


def make_mflm():
    from transformers import LlamaTokenizer
    folder = TINY / "MFLM"
    tokenizer = LlamaTokenizer(str(folder / "tokenizer.model"), model_max_length=1536, padding_side="right")
    tokenizer.pad_token = tokenizer.unk_token
    for group in (tiny.ADDED[:2], tiny.ADDED[2:]):
        tokenizer.add_tokens(group, special_tokens=True)
    tokenizer.save_pretrained(str(folder))
    tokenizer = LlamaTokenizer.from_pretrained(str(folder))     # as loaded, `</s>` in a text is one id
    generator, source = rng_for("mflm"), random.Random(tiny.SEED + 1)
    model, projector = fresh_llama(tiny.MFLM, generator), fresh_projector(64, 64, generator)
    clip = net.load_clip()
    shown = samples_of_pictures(128, False, clip, tiny.SEED + 2)

    def ids(body, answer=None):
        return tiny.tokenize(tiny.conversation(tiny.stage2_question(body), answer), tokenizer)

    start = len(ids(tiny.ANSWERS[0]))
    answer = ids(tiny.ANSWERS[0], tiny.SEG_ANSWER)[start:]
    print("prompt of %d ids, answer %s" % (start, answer))
    assert answer[2:] == [tiny.VOCAB + 4] + tokenizer(".").input_ids[1:] + [2]

    def draw():
        text, kind = source.choice(tiny.ANSWERS), source.random()
        if kind > 0.5:
            text = drop_words(text, source.random(), source)
        style = source.choice(["demo", "test0", "test1", "test2"])
        return ids(tiny.stage2_body((" " if style == "demo" else "") + text, style)), answer, source.choice(shown)[0]

    teach(model, projector, draw, 200, 4, 3e-3, 0.002, [answer])

    sam = randomize(net.sam(**tiny.SAM), rng_for("sam"))
    text_fcs = randomize(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, tiny.SAM["out"])), rng_for("fcs"))
    region = randomize(net.RegionEncoder(64, tiny.REGION_POS, 64), rng_for("region"))
    states = []
    for _ in range(8):
        prompt, _, features = draw()
        rows = projector(features[None])[0]
        states.append(net.llama_trace(model, net.embed(model, prompt + answer[:2], rows))["final"][-1])
    states = torch.stack(states)
    print("[SEG] state: mean size %.2f, spread %.3f" % (states.abs().mean(), states.std(0).mean()))
    balance_masks(sam, text_fcs, states)

    state = {k: v for k, v in model.state_dict().items()}          # 4.28 also stores rotary_emb.inv_freq
    state.update({"model.mm_projector." + k: v for k, v in projector.state_dict().items()})
    state.update({"model.text_hidden_fcs.0." + k: v for k, v in text_fcs.state_dict().items()})
    state.update({"model.grounding_encoder." + k: v for k, v in sam.state_dict().items()})
    state.update({"model.region_encoder." + k: v for k, v in region.state_dict().items()})
    save_shards(folder, {k: v.bfloat16() for k, v in state.items()}, "pytorch_model-%05d-of-%05d.bin",
                "pytorch_model.bin.index.json", torch.save)
    write_json(folder / "config.json", dict(
        COMMON_CONFIG, _name_or_path="tiny", architectures=["GLaMMForCausalLM"], model_type="glamm",
        bbox_token_idx=tiny.VOCAB + 2, freeze_mlp_adapter=True, image_aspect="square", image_aspect_ratio="square",
        image_grid_points=None, max_sequence_length=2048, mm_use_im_start_end=True, mm_use_image_start_end=True,
        mm_vision_module="../clip-vit-tiny", num_level_reg_features=4, num_reg_features=4, out_dim=tiny.SAM["out"],
        pretrain_mm_mlp_adapter=None, select_feature_type="patch", torch_dtype="bfloat16", train_mask_decoder=True,
        transformers_version="4.28.0", use_cache=False, use_image_patch_token=False, vision_module="../clip-vit-tiny",
        vision_tower="../clip-vit-tiny", with_region=True,
        **{k: tiny.MFLM[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                     "vocab_size", "rms_norm_eps", "max_position_embeddings")}))


if __name__ == "__main__":
    {"vision": make_vision, "dte": make_dte, "mflm": make_mflm}[sys.argv[1]]()
