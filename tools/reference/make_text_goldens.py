"""Goldens for src/text: encodings and decodings of both transformers generations, and the sampling filters.

    python3 tools/reference/make_text_goldens.py [--check]

trains a small SentencePiece BPE model with LLaMA's settings on the sentences below, writes checkpoint-like tokenizer directories and
tests/golden/text/{tokenizer,sampling,records}.json. The program calls itself under both environments of make_env.sh ($FAKESHIELD_REF_ENV):
tf437 (transformers 4.37.2; its `legacy: false` mode also needs the package protobuf 3.20) and tf428 (transformers 4.28.0).
--check writes to a temporary place instead and compares. The trained model is kept when it exists: `--train` makes a new one.
"""
import argparse
import filecmp
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "text"
ENV = Path(os.environ.get("FAKESHIELD_REF_ENV", Path.home() / ".cache" / "fakeshield-reference"))

SYSTEM = ("A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
          "answers to the human's questions.")
MFLM_TOKENS = ["<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>"]

SENTENCES = [
    SYSTEM,
    "Was this photo taken directly from the camera without any processing? Has it been tampered with by any artificial photo "
    "modification techniques such as ps?",
    "This is a picture that is suspected to have been tampered with by Photoshop.",
    "This photo has been tampered. The following is a description of the tampering area and the basis for judgment:",
    "Please provide a mask of the tampered region based on the description of the tampered region given above.",
    "Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with.",
    "The lamp in the left corner throws no shadow, while the chair beside it does. Its edges are too sharp for the light fog.",
    "Judgment basis: the texture of the pasted boat repeats, and the water under it shows no mirror image.",
    "The picture has not been tampered with. It appears to be a genuine photograph of a market in the morning.",
    "USER: what do you see? ASSISTANT: two gulls, a pier, and 1234567890 small waves; nothing else (really!).",
    "It is a mask. Sure, it is the result.\nSecond line\n\n  indented    with    spaces",
    "über naïve café – 東京 привет",
]


def train(path):
    import sentencepiece as spm
    model = io.BytesIO()  # a model_prefix would be written into the model
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_writer=model, model_type="bpe", vocab_size=500, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, character_coverage=0.995, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2)
    Path(path).write_bytes(model.getvalue())


def added(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, **flags}


def typed(content):
    return {"__type": "AddedToken", **added(content)}


def basic_objects(make):
    return {"bos_token": make("<s>"), "eos_token": make("</s>"), "unk_token": make("<unk>")}


COMMON = {"add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "sp_model_kwargs": {},
          "tokenizer_class": "LlamaTokenizer", "model_max_length": 2048, "padding_side": "right"}
MFLM_ADDED = {t: 500 + i for i, t in enumerate(MFLM_TOKENS)}
DECODER = {str(i): {**added(t), "special": True} for i, t in enumerate(["<unk>", "<s>", "</s>"])}
STRINGS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

# name -> files beside tokenizer.model, and the generations that read them ("all" texts or the short list)
VARIANTS = {
    "mflm": (["428", "437"], {
        "tokenizer_config.json": {**COMMON, **basic_objects(typed), "pad_token": None, "model_max_length": 1536},
        "special_tokens_map.json": {**basic_objects(added), "pad_token": "<unk>"},
        "added_tokens.json": MFLM_ADDED}),
    "dte_legacy": (["437"], {
        "tokenizer_config.json": {**COMMON, **STRINGS, "added_tokens_decoder": DECODER, "pad_token": "<unk>", "legacy": True},
        "special_tokens_map.json": {**basic_objects(added), "pad_token": "<unk>"}}),
    "dte_new": (["437"], {
        "tokenizer_config.json": {**COMMON, **STRINGS, "added_tokens_decoder": DECODER, "pad_token": "<unk>", "legacy": False},
        "special_tokens_map.json": {**basic_objects(added), "pad_token": "<unk>"}}),
    "plain_strings": (["428", "437"], {
        "tokenizer_config.json": {**COMMON},
        "special_tokens_map.json": {**STRINGS, "pad_token": "<unk>"},
        "added_tokens.json": {"[SEG]": 500, "<p>": 501}}),
    "nothing_but_the_model": (["428", "437"], {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}}),
    "new_pad": (["428", "437"], {
        "tokenizer_config.json": {**COMMON, **basic_objects(typed), "pad_token": "[PAD]", "legacy": None},
        "added_tokens.json": {"[SEG]": 500}}),
    "pad_from_map": (["428", "437"], {
        "tokenizer_config.json": {**COMMON},
        "special_tokens_map.json": {**STRINGS, "pad_token": "[PAD]"},
        "added_tokens.json": {"[SEG]": 500, "[PAD]": 501}}),
    "stripping": (["437"], {
        "tokenizer_config.json": {**COMMON, **STRINGS, "legacy": False, "added_tokens_decoder": {
            **DECODER, "500": {**added("<im_start>", rstrip=True), "special": False},
            "501": {**added("<im_end>", lstrip=True, rstrip=True), "special": True},
            "502": {**added("[SEG]", normalized=True), "special": False}}}}),
    "additional": (["428", "437"], {
        "tokenizer_config.json": {**COMMON, "add_eos_token": True, "additional_special_tokens": ["<p>", "</p>"]},
        "special_tokens_map.json": {**STRINGS, "additional_special_tokens": [added("<p>", lstrip=True), "</p>"]},
        "added_tokens.json": {"<p>": 500, "</p>": 501, "<point>": 502}}),
    "lists_differ": (["428", "437"], {
        "tokenizer_config.json": {**COMMON, "additional_special_tokens": ["<point>", "<p>"]},
        "special_tokens_map.json": {**STRINGS, "additional_special_tokens": ["</p>"]},
        "added_tokens.json": {"<p>": 500, "</p>": 501, "<point>": 502}}),
    "decoder_rules": (["437"], {
        "tokenizer_config.json": {**COMMON, **basic_objects(typed), "added_tokens_decoder": {
            **DECODER, "2": {**added("</s>", lstrip=True), "special": True}}},
        "special_tokens_map.json": {**basic_objects(added), "pad_token": "<p>"}}),
    "no_bos": (["428", "437"], {
        "tokenizer_config.json": {**COMMON, "add_bos_token": False, "clean_up_tokenization_spaces": True, "legacy": False},
        "added_tokens.json": {"[SEG]": 500, "[SEG][SEG]x": 501}}),
}
MAIN = {"mflm", "dte_legacy", "dte_new"}

ANSWERS = ["It is [SEG].", "Sure, [SEG].", "Sure, it is [SEG].", "Sure, the segmentation result is [SEG].", "[SEG]."]


def texts():
    question = ("Was this photo taken directly from the camera without any processing? Has it been tampered with by any artificial photo "
                "modification techniques such as ps? Please zoom in on any details in the image, paying special attention to the edges "
                "of the objects, capturing some unnatural edges and perspective relationships, some incorrect semantics, unnatural "
                "lighting and darkness etc.")
    stage2 = ("The <im_start><image><im_end> provides an overview of the picture.\nThis photo has been tampered. The following is a "
              "description of the tampering area and the basis for judgment: \n1. Whether the picture has been tampered with: yes\n Please "
              "give the mask of the tampered area based on the description of the tampered area given above.")
    out = [
        "", " ", "  ", "   ", "\n", "\n\n", " \n ", "\t", "a", " a", "  a", "a ", "a  ", " a b  c   d    e", ".", " .", " 1.", "1.", "...",
        "Hello", "hello, world!", "\nThis", "The mask.", "0123456789", "1 2 3", "don't", "naïve café über", "東京タワー", "привет мир",
        "e\u0301 vs \u00e9", "\u0928\u092e\u0938\u094d\u0924\u0947", "👍", "👩\u200d👩\u200d👧\u200d👦", "🇩🇪 flag", "a\u00a0b", "\u3000wide\u3000", "\u2003em\u2003",
        "\ufeffbom", "\u200bzero", "x\u0085y", "a\u1680[SEG]\u1680b", "it 's a ' b ' n't . x , y ! z ? don 't we 're I 'm they 've", "tab\tand\rreturn\x0bvt\x0cff", "\x01\x02\x1f", "\x7f", "\ufffd", "\uffff", "\U0010ffff",
        "▁", "▁▁", "a▁b", "▁a", " ▁ a", "<0x41>", "<0x0A>x", "<unk", "unk>", "<s", "s>", "<", "[SEG", "SEG]", "[[SEG]]", "[seg]", "< s >",
        "<s>", "</s>", "<unk>", "<s></s>", "<s> a", "a <s>", "a</s> b", "a<unk>b", "a <unk> b", " <s> ", "<s> <s>", "<s>\n\n</s>\n", "<<s>>", "</s>.",
        "<pad>", "[PAD]", "x[PAD]y", "x [PAD] y",
        "<image>", "a <image> b", "<im_start><image><im_end>", "a <im_start> <im_end> b", "a<bbox>b", "a \n <bbox> \n b", " <point> ",
        "\u00a0[SEG]\u3000x", "a\u2003[SEG]\u2028b", "a\x1c[SEG]\x1fb", "a\u200b[SEG]\u200bb", "a\x85[SEG]\u180eb", "[SEG][SEG]", "[SEG] [SEG]", "[SEG][SEG]x", "[SEG].",
        "It is [SEG] .", "<p>the lamp</p> [SEG]", "<p> the lamp </p> and <p>the chair</p>", "</p></p>", "<p", "/p>", "<p><p", "< p >",
        f"{SYSTEM} USER: <image>\nThis is a picture that is suspected to have been tampered with by Photoshop. {question} ASSISTANT:",
        f"{SYSTEM} USER: {stage2} ASSISTANT:",
        "1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with.\n\n2. Judgment basis: x",
    ] + [a + "</s>" for a in ANSWERS] + [f"ASSISTANT: {a}</s>" for a in ANSWERS[:2]]
    rng = random.Random(20240)
    parts = MFLM_TOKENS + ["<s>", "</s>", "<unk>", "<image>", " ", "  ", "\n", "\t", "\u00a0", "\u3000", "▁", "a", "the", "The", ".", ",", "1", "mask", "é", "👍", "漢",
                           "[", "]", "<", ">", "/", "[PAD]"]
    out += ["".join(rng.choice(parts) for _ in range(rng.randint(2, 12))) for _ in range(60)]
    return out


def id_lists(size, mark):
    rng = random.Random(5)
    b = lambda *xs: [3 + x for x in xs]
    out = [[], [0], [1], [2], [259], [260], [1, 1, 2, 2], b(0xE2, 0x82, 0xAC), b(0xE2, 0x82), b(0x82, 0xAC), b(0xC0, 0x80), b(0xED, 0xA0, 0x80),
           b(0xF4, 0x90, 0x80, 0x80), b(0xF0, 0x9F, 0x91, 0x8D), b(0xF0, 0x9F, 0x91) + [300], [300] + b(0xF0, 0x9F, 0x91, 0x8D) + [301],
           b(0xF0, 0x9F) + [1] + b(0x91, 0x8D), b(0xE2, 0x82, 0x41), b(0xFF, 0xFE), b(0x41, 0xC3, 0xA9, 0xC3), b(0x0A), [1] + b(0x0A, 0x20), b(0x20) + [300]]
    last = size - 1  # an added token where there is one; the mark alone decodes to nothing at a run's start
    out += [[mark], [last, mark], [mark, last], [last, mark, last], [mark, mark, last, mark, mark], [1, mark, last, 2, mark]]
    out += [[rng.randrange(size) for _ in range(rng.randint(1, 14))] for _ in range(40)]
    out += [[rng.choice([0, 1, 2, size - 1, size - 2, 259, 260, 261] + b(0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0x20, 0x0A)) for _ in range(rng.randint(1, 9))]
            for _ in range(60)]
    return [x for x in out if b(0)[0] not in x]  # a C string cannot hold U+0000; the C test covers that byte by itself


def image_ids(tok, prompt):
    """What LLaVA does with "<image>": every chunk is tokenized on its own; -200 stands between."""
    chunks = [tok(chunk).input_ids for chunk in prompt.split("<image>")]
    has_bos = bool(chunks[0]) and chunks[0][0] == tok.bos_token_id
    ids = list(chunks[0])
    for chunk in chunks[1:]:
        ids += [-200] + chunk[1 if has_bos else 0:]
    return ids


def worker(model, generation, out):
    """Runs under one of the two environments."""
    import transformers
    from transformers import LlamaTokenizer
    assert transformers.__version__ == {"428": "4.28.0", "437": "4.37.2"}[generation], transformers.__version__
    results = {}
    all_texts = texts()
    for name, (generations, files) in VARIANTS.items():
        if generation not in generations:
            continue
        with tempfile.TemporaryDirectory() as tmp:
            shutil.copy(model, f"{tmp}/tokenizer.model")
            for file, content in files.items():
                Path(tmp, file).write_text(json.dumps(content))
            tok = LlamaTokenizer.from_pretrained(tmp)
            indices = list(range(len(all_texts))) if name in MAIN else [i for i, t in enumerate(all_texts) if len(t) < 60]
            encoded = [tok(all_texts[i]).input_ids for i in indices]
            lists = id_lists(len(tok), tok.convert_tokens_to_ids("▁"))[0 if name in MAIN else -106:]
            decodings = [encoded[i] for i in range(len(encoded))] + lists
            results[name] = {
                "size": len(tok), "bos": tok.bos_token_id, "eos": tok.eos_token_id,
                "texts": indices, "ids": encoded,
                "image": [image_ids(tok, all_texts[i]) if "<image>" in all_texts[i] else None for i in indices],
                "lists": lists,
                "decoded": [tok.decode(x) for x in decodings],
                "decoded_skip": [tok.decode(x, skip_special_tokens=True) for x in decodings],
            }
    Path(out).write_text(json.dumps(results))


def sampling(out):
    """Kept ids and their probabilities of transformers' warpers, in generate()'s order. Runs under tf437."""
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
    unstable_sort = torch.sort
    torch.sort = lambda x, **options: unstable_sort(x, stable=True, **options)  # equal logits: torch leaves their order open on a CPU
    generator = torch.Generator().manual_seed(7)
    cases = []
    for n, temperature, top_k, top_p, ties in [
            (1, 0.2, 50, 1.0, False), (7, 1.0, 0, 1.0, False), (7, 1.0, 3, 1.0, True), (40, 0.2, 50, 1.0, False), (64, 0.7, 0, 0.6, False),
            (64, 0.2, 10, 0.6, False), (64, 1.3, 10, 0.9, True), (64, 1.0, 1, 1.0, False), (64, 1.0, 0, 0.01, False), (64, 2.0, 64, 0.99, True),
            (64, 5.0, 20, 0.5, True), (300, 1.0, 50, 0.95, False), (300, 0.5, 0, 0.8, True), (33, 1.0, 5, 0.3, True)]:
        logits = torch.randn(1, n, generator=generator) * 3
        if ties:
            logits = torch.round(logits)
        logits = torch.round(logits * 1024) / 1024  # short in JSON
        scores = logits.clone()
        if temperature != 1.0:
            scores = TemperatureLogitsWarper(temperature)(None, scores)
        if top_k:
            scores = TopKLogitsWarper(top_k)(None, scores)
        if top_p < 1.0:
            scores = TopPLogitsWarper(top_p)(None, scores)
        p = scores.softmax(-1)[0].tolist()
        cases.append({"temperature": temperature, "top_k": top_k, "top_p": top_p, "logits": logits[0].tolist(),
                      "probabilities": [[i, float(f"{x:.7g}")] for i, x in enumerate(p) if x > 0 or scores[0][i] > -1e30]})
    Path(out).write_text(json.dumps(cases))


def records():
    """Stage 1's records as Python writes them."""
    every = "".join(map(chr, range(1, 256)))
    pairs = [("a.jpg", " 1. Whether"), ("", ""), ("C:\\dir\\\"x\".png", "a\nb\tc\r\f\b/"), (every, "\x7f\x80\u07ff\u0800\u2028\ud7ff\ue000\ufffd\uffff"),
             ("/p/東京.jpg", "👍 \U00010000 \U0010ffff naïve")]
    return [[image, outputs, json.dumps({"image": image, "outputs": outputs})] for image, outputs in pairs]


def run(generation, *args):
    env = {**os.environ, "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "SkylakeX"), "TRANSFORMERS_VERBOSITY": "critical"}
    subprocess.run([str(ENV / f"tf{generation}" / "bin" / "python"), __file__, *map(str, args)], check=True, env=env)


def build(target, train_new):
    target.mkdir(parents=True, exist_ok=True)
    model = target / "mflm" / "tokenizer.model"
    kept = GOLDEN / "mflm" / "tokenizer.model"
    model.parent.mkdir(exist_ok=True)
    if train_new or not kept.exists():
        run("437", "--worker-train", model)
    elif kept != model:
        shutil.copy(kept, model)
    for name in sorted(MAIN):
        (target / name).mkdir(exist_ok=True)
        if name != "mflm":
            shutil.copy(model, target / name / "tokenizer.model")
        for file, content in VARIANTS[name][1].items():
            (target / name / file).write_text(json.dumps(content, indent=2) + "\n")
    results = {"about": "transformers 4.37.2 and 4.28.0 LlamaTokenizer over tests/golden/text/mflm/tokenizer.model", "texts": texts(),
               "variants": []}
    with tempfile.TemporaryDirectory() as tmp:
        for generation in ["428", "437"]:
            run(generation, "--worker", model, generation, f"{tmp}/{generation}.json")
            for name, result in json.loads(Path(tmp, f"{generation}.json").read_text()).items():
                files = {k: json.dumps(v) for k, v in VARIANTS[name][1].items()}
                results["variants"].append({"name": name, "generation": int(generation), "files": files, **result})
        run("437", "--worker-sampling", target / "sampling.json")
    (target / "records.json").write_text(json.dumps(records(), indent=1) + "\n")
    lines = ",\n".join(json.dumps(v, separators=(",", ":")) for v in results.pop("variants"))
    head = json.dumps(results, separators=(",", ":"))[:-1]
    (target / "tokenizer.json").write_text(f'{head},"variants":[\n{lines}\n]}}\n')


def main():
    if sys.argv[1:2] == ["--worker"]:
        return worker(*sys.argv[2:])
    if sys.argv[1:2] == ["--worker-train"]:
        return train(sys.argv[2])
    if sys.argv[1:2] == ["--worker-sampling"]:
        return sampling(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--train", action="store_true")
    options = parser.parse_args()
    if not options.check:
        return build(GOLDEN, options.train)
    with tempfile.TemporaryDirectory() as tmp:
        build(Path(tmp), False)
        names = [str(p.relative_to(tmp)) for p in sorted(Path(tmp).rglob("*")) if p.is_file()]
        _, different, missing = filecmp.cmpfiles(tmp, GOLDEN, names, shallow=False)
        for name in different + missing:
            print(f"tests/golden/text/{name} differs from what the reference says now")
        return 1 if different or missing else print(f"{len(names)} files agree") or 0


if __name__ == "__main__":
    sys.exit(main())
