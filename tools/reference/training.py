"""Both training recipes on the original's libraries: models with peft's adapters, label masking, batches, losses.

What is upstream's own code (LLaVA's and GLaMM's trainers, which no package carries) is written here from its description; LLaMA, CLIP, SAM and
LoRA are the packages'. Everything is float32, dropout is 0.
"""
import json
import math

import networks as net
import tiny
import torch
from networks import TINY
from torch import nn
from torch.nn import functional as F

IGNORE = -100
USER_SYSTEM = tiny.SYSTEM.replace("curious human", "curious user").replace("the human's", "the user's")      # LLaVA's template `v1`


# ---- ids and labels --------------------------------------------------------------------------------------

def labels_of(text, ids, tokenizer):
    """The rounds rule: what the user says is masked, what the assistant says is learned, its </s> included."""
    labels, at = list(ids), 1
    labels[0] = IGNORE
    for number, turn in enumerate(text.split("</s>")):
        if not turn:
            break
        parts = turn.split(" ASSISTANT: ")
        assert number == 0 and len(parts) == 2               # one turn is all that the goldens need
        told = len(tiny.tokenize(parts[0] + " ASSISTANT: ", tokenizer)) - 2
        labels[at:at + told] = [IGNORE] * told
        at += len(tiny.tokenize(turn, tokenizer))
    assert at == len(ids), "the parts have other lengths than the whole"
    return labels


def padded(rows):
    longest = max(len(r) for r in rows)
    return torch.stack([F.pad(r, (0, 0, 0, longest - len(r))) for r in rows])


def expand(table, ids, labels, image):
    """Embeddings with the image rows in the place of -200, and the labels that belong to them."""
    at = ids.index(tiny.IMAGE_ID)
    text = table(torch.tensor(ids[:at] + ids[at + 1:]))
    return (torch.cat([text[:at], image, text[at:]]), torch.tensor(labels[:at] + [IGNORE] * len(image) + labels[at + 1:]))


def llama_batch(model, samples, rows):
    """samples: (ids, labels); rows: image rows of each. Runs the decoder: final-norm states, logits, cross entropy."""
    both = [expand(model.get_input_embeddings(), s[0], s[1], r) for s, r in zip(samples, rows)]
    embeds = padded([e for e, _ in both])
    labels = torch.stack([F.pad(t, (0, embeds.shape[1] - len(t)), value=IGNORE) for _, t in both])
    mask = torch.stack([torch.arange(embeds.shape[1]) < len(e) for e, _ in both]).long()
    hidden = model.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)[0]
    logits = model.lm_head(hidden).float()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    return hidden, logits, labels, loss


# ---- adapters --------------------------------------------------------------------------------------------

def adapt(model, base, targets, rank, alpha, seed, spread):
    """peft's LoRA around model (of the tiny checkpoint's folder `base`): A as peft draws it, B normal with this spread (0: as peft starts)."""
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(seed)
    model.name_or_path = base
    wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, bias="none",
                                               task_type="CAUSAL_LM"))
    set_b(wrapped, seed + 1, spread)
    return wrapped


def set_b(wrapped, seed, spread):
    generator = torch.Generator()
    generator.manual_seed(seed)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if ".lora_B." in name:
                p.copy_(spread * torch.randn(p.shape, generator=generator))


def artefact_name(name):
    """As adapter files (lora) or the base checkpoint (all else) call a parameter of the wrapped model."""
    return name.replace(".default.", ".") if ".lora_" in name else name[len("base_model.model."):]


def trained(wrapped):
    return {artefact_name(n): p for n, p in wrapped.named_parameters() if p.requires_grad}


def linear_leaves(model):
    """LLaVA's find_all_linear_names: leaf names of every Linear but the projector's and the head."""
    found = {n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear) and "mm_projector" not in n}
    return sorted(found - {"lm_head"})


def load_dte(folder=TINY / "DTE-FDM"):
    """LLaMA with the projector where LLaVA has it."""
    weights = net.read_checkpoint(folder)
    model = net.load_llama(folder, weights)
    model.model.mm_projector = net.load_projector(weights)
    return model


def load_mflm(folder=TINY / "MFLM"):
    """LLaMA with the projector, the text head and SAM where GLaMM has them (the region encoder takes no part)."""
    weights = net.read_checkpoint(folder)
    model = net.load_llama(folder, weights)
    model.model.mm_projector = net.load_projector(weights)
    model.model.text_hidden_fcs = nn.ModuleList([net.load_text_fcs(weights)])
    model.model.grounding_encoder = net.load_sam(weights)
    return model


def wrap_dte(model, rank=8, alpha=16, seed=20240801, spread=0.05):
    wrapped = adapt(model, "models/tiny/DTE-FDM", linear_leaves(model), rank, alpha, seed, spread)
    for p in wrapped.base_model.model.model.mm_projector.parameters():
        p.requires_grad = True
    return wrapped


FULLY = ("lm_head", "embed_tokens", "mask_decoder", "text_hidden_fcs")


def wrap_mflm(model, rank=8, alpha=16, seed=20240802, spread=0.05):
    apart = ("grounding_encoder", "mm_projector", "text_hidden_fcs")
    targets = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith(("q_proj", "v_proj"))
               and not any(word in n for word in apart)]
    wrapped = adapt(model, "models/tiny/MFLM", targets, rank, alpha, seed, spread)
    for name, p in wrapped.named_parameters():
        if any(word in name for word in FULLY):
            p.requires_grad = True
    return wrapped


# ---- schedules and losses --------------------------------------------------------------------------------

def cosine_factor(done, total, warm):
    if done < warm:
        return done / max(1, warm)
    return 0.5 * (1 + math.cos(math.pi * (done - warm) / max(1, total - warm)))


def linear_gamma(n, total, warm):
    """DeepSpeed's WarmupDecayLR, linear."""
    return n / warm if n < warm else max(0.0, (total - n) / max(1.0, total - warm))


def bce_loss(logits, target):
    """One mask."""
    return F.binary_cross_entropy_with_logits(logits, target)


def dice_loss(logits, target, scale=1000):
    """One mask; GLaMM's scaling keeps the sums small in bfloat16."""
    s, t = logits.sigmoid().flatten(), target.flatten()
    return 1 - (2 * (s / scale * t).sum() + 1e-6) / ((s / scale).sum() + (t / scale).sum() + 1e-6)


def save_adapter(wrapped, folder, forms=(False, True), rest=True):
    """As LLaVA's trainer ends: peft's files (pickled and as safetensors), and everything else that is trained."""
    lora = {n: p.detach() for n, p in wrapped.named_parameters() if ".lora_" in n}
    folder.mkdir(parents=True, exist_ok=True)
    for safe in forms:
        wrapped.save_pretrained(str(folder), state_dict=dict(lora), safe_serialization=safe)
    if rest:
        torch.save({n: p.detach().clone() for n, p in wrapped.named_parameters() if p.requires_grad and ".lora_" not in n},
                   folder / "non_lora_trainables.bin")
    (folder / "README.md").unlink()                          # peft's model card
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(dict(config, target_modules=sorted(config["target_modules"])), indent=2,
                                                           sort_keys=True) + "\n")
