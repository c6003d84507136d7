#!/usr/bin/env python3
"""A tiny sentence encoder and what transformers makes of difficult texts, for src/text/wordpiece.c, src/model/bert.c and src/eval/encoder.c.

Usage: .../tf437/bin/python tools/reference/make_bert_goldens.py [tests/golden/bert]      (transformers 4.37.2, tokenizers 0.15.2)

Writes a BERT of random weights with its vocabulary and the files sentence-transformers puts beside one, and expected.json: token ids of
BertTokenizerFast (and whether the slow tokenizer agrees), and the mean of the last states over all tokens.
"""
import json
import os
import sys

import torch
from transformers import BertConfig, BertModel, BertTokenizer, BertTokenizerFast

WORDS = """the picture image has not been tampered with area is of edges light lighting shadow unnatural person man woman car left right middle sky
cafe naive uber strasse resume istanbul hello world aa bb""".split()
PIECES = """##s ##ed ##ing ##ly ##er ##al ##nat ##ur tam un ##per edge shad ##ow ##e ##a ##b ##c ##d ##t ##o ##n ##i ##r ##x ##1 ##9 ##0 ##é ##中 ##δ ##ο ##σ ##ς ##ß ##국 ##어 ##본 ##न ##ا""".split()

TEXTS = [
    "", " ", "the picture has been tampered with", "The Picture Has NOT been Tampered With.", "tampering, edges; light!", "unnaturally lighted shadows",
    "  many   blanks \t tabs\nand lines\r\n ", "café naïve Über résumé", "cafe\u0301 nai\u0308ve", "İstanbul ISTANBUL ıstanbul", "ΟΔΟΣ οδός", "Straße STRASSE",
    "中文 picture 图像", "a中b文c", "日本語 テキスト ひらがな", "한국어 문장", "hello[SEP]world [MASK] [CLS] [UNK] [sep] [SEG]", "$100+20=120 <a|b> ^~`", "don't it's", "“quoted” – dash … ¿que? «x»",
    "zero\u200bwidth\u00adsoft\ufeffbom", "nul\u0000l \ufffd replacement", "no\u00a0break\u3000wide\u2028line\u2029para\u0085next\u000bvt", "emoji 😀 👨\u200d👩 flag 🇩🇪", "x" * 100, "x" * 101, "aaaa bbbb abab",
    "(1) light; (2) shadow: edges.", "1. Whether the picture has been tampered with / Description of the tampered area: the sky.", "ﬁne ﬀ ① ² Ａ", "देवनागरी हिन्दी", "שלום ש\u05c1", "tab\x7fdel\x1besc",
    "the light " * 20, "é́́", "Ǆ ǅ ᾳ ẞ", "𝐀𝒜 𠀀 𪚥", "a_b-c/d\\e", "mixed中with文words", "\u0300 alone", "!!!", "...the...",
]


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else "tests/golden/bert"
    os.makedirs(os.path.join(out, "1_Pooling"), exist_ok=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [str(d) for d in range(10)]
    marks = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + list("“”–…¿«»中文图像日本語ひㅎ한οδσ①²ß")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + WORDS + letters + marks + PIECES + ["##" + c for c in letters if "##" + c not in PIECES]
    vocab = list(dict.fromkeys(vocab))
    with open(os.path.join(out, "vocab.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(vocab) + "\n")
    tokenizer_config = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True, "model_max_length": 512}
    json.dump(tokenizer_config, open(os.path.join(out, "tokenizer_config.json"), "w"))
    json.dump({"max_seq_length": 24, "do_lower_case": False}, open(os.path.join(out, "sentence_bert_config.json"), "w"))
    json.dump({"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False,
               "pooling_mode_mean_sqrt_len_tokens": False}, open(os.path.join(out, "1_Pooling", "config.json"), "w"))

    fast = BertTokenizerFast(os.path.join(out, "vocab.txt"), do_lower_case=True)
    slow = BertTokenizer(os.path.join(out, "vocab.txt"), do_lower_case=True)
    cased = BertTokenizerFast(os.path.join(out, "vocab.txt"), do_lower_case=False)
    torch.manual_seed(3)
    config = BertConfig(vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=48,
                        type_vocab_size=2, initializer_range=0.4)
    model = BertModel(config, add_pooling_layer=False).eval()
    for name, p in model.named_parameters():  # norms and biases that are not 1 and 0
        if "LayerNorm" in name or name.endswith("bias"):
            p.data += torch.randn_like(p) * 0.2
    model.save_pretrained(out, safe_serialization=True)
    os.path.exists(os.path.join(out, "generation_config.json")) and os.remove(os.path.join(out, "generation_config.json"))

    cases = []
    for text in TEXTS:
        ids = fast(text, truncation=True, max_length=24)["input_ids"]
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0]
        full = fast(text)["input_ids"]
        cases.append({"text": text, "ids": full, "cased": cased(text)["input_ids"], "slow_agrees": full == slow(text)["input_ids"], "cut": ids,
                      "embedding": [float(v) for v in states.mean(0)]})
    a, b = (torch.tensor(cases[i]["embedding"]) for i in (2, 3))
    golden = {"cases": cases, "cosine_2_3": float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))}
    with open(os.path.join(out, "expected.json"), "w") as f:
        json.dump(golden, f, separators=(",", ":"))
        f.write("\n")
    print(sum(not c["slow_agrees"] for c in cases), "texts where the slow tokenizer differs:", [c["text"] for c in cases if not c["slow_agrees"]])


main()
