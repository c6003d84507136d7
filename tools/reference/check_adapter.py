"""Does an adapter directory of FakeShield in C mean to peft and to LLaVA what it means to us?

    tf437/bin/python check_adapter.py DIR             # trained by `fakeshield train dte-fdm` on models/tiny
    tf428/bin/python check_adapter.py --mflm DIR      # by `train mflm`; --base FOLDER for another checkpoint

DIR holds adapter_config.json, adapter_model.safetensors, non_lora_trainables.bin and what our program computed with all of it, logits.safetensors:

    ids       I64 [T]       token ids; with a picture one of them is -200
    features  F32 [NP, C]   only with a picture: CLIP's selected states (the projector's input)
    logits    F32 [L, V]    of every position of the expanded sequence: L = T, or T - 1 + NP

Checked: peft loads the adapter into the base model with no tensor missing or left over; the other tensors load by the rules of LLaVA's model builder
and merge script; logits agree with the adapter beside the weights and merged into them. Exit 1 with a line for each problem.
"""
import argparse
import json
import sys
from pathlib import Path

import networks as net
import tiny
import torch
import training


def non_lora(folder, model):
    """As LLaVA loads them: `base_model.` is dropped, and one more `model.` if there is a name with two. Returns problems."""
    tensors = torch.load(folder / "non_lora_trainables.bin", map_location="cpu")
    tensors = {k[11:] if k.startswith("base_model.") else k: v for k, v in tensors.items()}
    if any(k.startswith("model.model.") for k in tensors):
        tensors = {k[6:] if k.startswith("model.") else k: v for k, v in tensors.items()}
    left = model.load_state_dict(tensors, strict=False).unexpected_keys
    print("%d tensors beside the adapter, e.g. %s" % (len(tensors), next(iter(tensors), "none")))
    return ["non_lora_trainables.bin: the model has no %s" % name for name in left]


def adapter(folder, model):
    """The model with peft's adapter, and problems: peft itself passes over names that it does not know."""
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import load_file
    wrapped = PeftModel.from_pretrained(model, str(folder)).eval()
    mine, theirs = load_file(folder / "adapter_model.safetensors"), get_peft_model_state_dict(wrapped)
    problems = ["adapter_model.safetensors lacks %s" % n for n in theirs.keys() - mine.keys()]
    problems += ["peft has no place for %s" % n for n in mine.keys() - theirs.keys()]
    problems += ["peft holds another %s" % n for n in mine.keys() & theirs.keys() if not torch.equal(mine[n].float(), theirs[n].float())]
    config = json.loads((folder / "adapter_config.json").read_text())
    print("%d adapter tensors, r %d, alpha %g, base %s" % (len(mine), config["r"], config["lora_alpha"], config["base_model_name_or_path"]))
    return wrapped, problems


def forward(model, told):
    """Logits of the plain model or of one with adapters in it."""
    ids, table = told["ids"].tolist(), model.get_input_embeddings()
    if tiny.IMAGE_ID in ids:
        embeds = net.embed(model, ids, model.model.mm_projector(told["features"].float()))
    else:
        embeds = table(torch.tensor(ids))[None]
    return model(inputs_embeds=embeds, use_cache=False).logits[0]


def main():
    from safetensors.torch import load_file
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path, metavar="DIR")
    p.add_argument("--mflm", action="store_true")
    p.add_argument("--base", type=Path)
    p.add_argument("--tolerance", type=float, default=1e-4, help="of the largest logit")
    o = p.parse_args()
    base = o.base or net.TINY / ("MFLM" if o.mflm else "DTE-FDM")
    model = (training.load_mflm if o.mflm else training.load_dte)(base)
    told = load_file(o.folder / "logits.safetensors")
    plain = forward(model, told)
    problems = non_lora(o.folder, model)
    wrapped, more = adapter(o.folder, model)
    problems += more
    results = {"beside the weights": forward(wrapped.base_model.model, told)}
    results["merged"] = forward(wrapped.merge_and_unload(), told)
    for name, logits in results.items():
        if logits.shape != told["logits"].shape:
            problems.append("logits are %s, not %s" % (tuple(told["logits"].shape), tuple(logits.shape)))
            continue
        gap = float((logits - told["logits"]).abs().max() / logits.abs().max())
        print("adapter %-20s logits differ by %.1e" % (name, gap))
        if not gap <= o.tolerance:
            problems.append("adapter %s: logits differ by %.1e of the largest" % (name, gap))
    print("the adapter changes logits by %.1e" % float((results["merged"] - plain).abs().max() / plain.abs().max()))
    for line in problems:
        print("WRONG: " + line)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
