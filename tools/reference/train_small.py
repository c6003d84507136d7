"""A checkpoint whose first language model was trained on English, for measuring what quantized weights cost (docs/bundle.md).

models/tiny knows four texts by rote and random weights know nothing: neither shows how much of a language model's predictions
4 bits destroy. This trains a LLaMA of about four million parameters, whose rows are whole blocks of 256, on the licence texts and package
documentation of a Debian machine, some minutes on two cores, and writes it in place of DTE-FDM's; everything else is the tiny
checkpoint's. The last twentieth of the text is held out and written to OUT/held-out.txt. Not committed and not repeatable to the bit.

    $FAKESHIELD_REF_ENV/tf437/bin/python train_small.py OUT [MINUTES]
"""
import json
import pathlib
import shutil
import sys
import time

import networks as net
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

SIZE = dict(hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4)
BATCH, LENGTH, RATE = 3, 160, 2e-3


def corpus():
    """A few megabytes of English: every text once, in the order of their names."""
    seen, out = set(), []
    roots = [pathlib.Path("/usr/share/common-licenses"), pathlib.Path("/usr/share/perl"), pathlib.Path("/usr/share/doc")]
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.suffix in (".gz", ".png", ".pm", ".pl") or not path.is_file() or path.stat().st_size > 1 << 19:
                continue
            text = path.read_bytes()
            key = hash(text[:4000])
            if b"\0" in text or len(text) < 2000 or key in seen:
                continue
            seen.add(key)
            out.append(text.decode("utf-8", "replace"))
            if sum(map(len, out)) > 3 << 20:
                return out
    return out


def main(out, minutes):
    out = pathlib.Path(out)
    shutil.copytree(net.TINY, out)
    for file in (out / "DTE-FDM").glob("model*"):
        file.unlink()
    import sentencepiece
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(net.TINY / "DTE-FDM" / "tokenizer.model"))
    texts = corpus()
    text = "\n\n".join(texts)
    held = text[-len(text) // 20:]
    (out / "held-out.txt").write_text(held)
    ids = torch.tensor(tokenizer.encode(text[:-len(held)]))
    test = torch.tensor(tokenizer.encode(held))
    config = json.loads((out / "DTE-FDM" / "config.json").read_text())
    config.update(SIZE)
    (out / "DTE-FDM" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    torch.set_grad_enabled(True)                # networks.py only computes
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=config["vocab_size"], rms_norm_eps=config["rms_norm_eps"], max_position_embeddings=4096, **SIZE))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    print("%d tokens, %d held out, %.1f M parameters" % (len(ids), len(test), sum(p.numel() for p in model.parameters()) / 1e6), flush=True)

    def loss_of(batch):
        return model(input_ids=batch, labels=batch).loss

    begin, step = time.time(), 0
    while time.time() - begin < 60 * minutes:
        progress = (time.time() - begin) / (60 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (1 - 0.95 * progress)
        starts = torch.randint(0, len(ids) - LENGTH, (BATCH,))
        loss = loss_of(torch.stack([ids[s:s + LENGTH] for s in starts]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print("step %d: loss %.3f" % (step, loss.item()), flush=True)
    with torch.no_grad():
        losses = [loss_of(test[i:i + LENGTH][None]).item() for i in range(0, min(len(test), 40 * LENGTH) - LENGTH, LENGTH)]
    print("%d steps, held-out loss %.3f nats a token" % (step, sum(losses) / len(losses)))
    state = {k: v.contiguous() for k, v in model.state_dict().items() if "inv_freq" not in k}
    width, vision = SIZE["hidden_size"], config["mm_hidden_size"]
    for name, shape in (("0", (width, vision)), ("2", (width, width))):
        state["model.mm_projector.%s.weight" % name] = torch.randn(shape) * 0.02
        state["model.mm_projector.%s.bias" % name] = torch.zeros(width)
    save_file({k: v.half() for k, v in state.items()}, str(out / "DTE-FDM" / "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 12)
