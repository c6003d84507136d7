"""Goldens for src/train/data_*.c: token ids and labels of training conversations, and the order of records.

    tools/reference/make_train_data_goldens.py UPSTREAM [--check]

UPSTREAM is a checkout of github.com/zhipeixu/FakeShield, whose own functions run here on texts of ours (nothing of it is copied):
DTE-FDM's preprocess_multimodal and preprocess_v1 under transformers 4.37.2, MFLM's TamperSegmDataset and custom_collate_fn under 4.28.0,
both with the tiny checkpoint's tokenizers; the length-grouped sampler, PyTorch's DistributedSampler and accelerate's BatchSamplerShard
with permutations of ours in place of torch.randperm's. Writes tests/golden/train_data/{conversations,segm,order}.json.
Environments as for make_text_goldens.py ($FAKESHIELD_REF_ENV, make_env.sh); accelerate 0.25.0 must be in tf437.
"""
import ast
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "train_data"
ENV = Path(os.environ.get("FAKESHIELD_REF_ENV", Path.home() / ".cache" / "fakeshield-reference"))

QUESTION = ("This is a picture that is suspected to have been tampered with by Photoshop. Was this photo taken directly from the camera "
            "without any processing?")
ANSWER = ("1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with, in the "
          "middle.\n\n2. Judgment basis: - Edges: they are hard.")


def human(value):
    return {"from": "human", "value": value}


def gpt(value):
    return {"from": "gpt", "value": value}


def conversations():
    """name, has a picture, turns"""
    return [
        ("usual", True, [human("<image>\n" + QUESTION), gpt(ANSWER)]),
        ("three rounds", True, [human("<image>\nWhat is it?"), gpt("A cat."), human("Is it real?"), gpt("No, it is not.\nLook."), human("Why?"), gpt("The edges are hard.")]),
        ("picture in the middle", True, [human("Look at <image> this  picture, please. "), gpt(" It has been tampered with. ")]),
        ("picture at the end", True, [human("Is this real?\n\n<image>\n"), gpt("No.")]),
        ("picture twice in a turn", True, [human("<image> and <image> again"), gpt("Yes.")]),
        ("nothing but the picture", True, [human(" \n<image>\t"), gpt("A tree.")]),
        ("picture in the second question", True, [human("Hello"), gpt("Hello!"), human("What is <image>"), gpt("A house.")]),
        ("answer first", True, [gpt("How can I help?"), human("<image>\nIs it real?"), gpt("Yes.")]),
        ("answer first with the picture", True, [gpt("<image>"), human("Is it real?"), gpt("Yes.")]),
        ("no picture", False, [human(QUESTION), gpt(ANSWER)]),
        ("no picture, two rounds", False, [human("What is 2+2?"), gpt("4"), human("Sure?"), gpt("Yes.")]),
        ("no picture but its name", False, [human("What does <image> mean?"), gpt("A picture's place.")]),
        ("unicode", True, [human("\u00a0<image>\u2003図はé本物ですか？ 👍\u3000"), gpt("いいえ 👎 — naïve\u00a0")]),
        ("question only", True, [human("<image>\n" + QUESTION)]),
        ("ends with a question", True, [human("<image>\nA?"), gpt("B."), human("C?")]),
        ("empty answer", True, [human("<image>\nA?"), gpt("")]),
        ("empty question", True, [human(""), gpt("B.")]),
        ("end of text in the answer", True, [human("<image>\nA?"), gpt("B.</s>C.")]),
        ("end of text in the question", True, [human("<image>\nA</s>?"), gpt("B.")]),
        ("end of text without picture", False, [human("A?"), gpt("B </s>")]),
        ("role in the answer", True, [human("<image>\nA?"), gpt("B. ASSISTANT: C.")]),
        ("role in a later question", True, [human("<image>\nA?"), gpt("B."), human("USER: ASSISTANT: C?"), gpt("D.")]),
        ("unknown", True, [human("<image>\nA <unk> b?"), gpt("B.")]),
        ("beginning of text", True, [human("<image>\nA <s> b?"), gpt("<s>B.")]),
        ("line breaks", True, [human("<image>\n\n\nA\r\n?"), gpt("\n\nB.\n\n"), human("  "), gpt("\t")]),
        ("spaces", False, [human("   A   ?  "), gpt("   B.   "), human(" ▁C▁ "), gpt("▁D")]),
    ]


def functions(path, names, scope):
    """The functions and classes of a source file, without its imports."""
    tree = ast.parse(path.read_text())
    found = [n for n in tree.body if getattr(n, "name", None) in names]
    assert len(found) == len(names), (path, names)
    exec(compile(ast.Module(found, []), str(path), "exec"), scope)
    return [scope[n] for n in names]


def module(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    return m


def worker_conversations(upstream, out):
    import contextlib
    import io
    import torch
    import transformers
    llava = Path(upstream) / "DTE-FDM" / "llava"
    conversation = module(llava / "conversation.py", "conversation_lib")
    conversation.default_conversation = conversation.conv_templates["v1"]
    scope = {"torch": torch, "transformers": transformers, "conversation_lib": conversation, "IS_TOKENIZER_GREATER_THAN_0_14": True,
             "Dict": dict, "Sequence": list, "DataArguments": object, "IGNORE_INDEX": -100, "IMAGE_TOKEN_INDEX": -200,
             "DEFAULT_IMAGE_TOKEN": "<image>", "DEFAULT_IM_START_TOKEN": "<im_start>", "DEFAULT_IM_END_TOKEN": "<im_end>"}
    # Python's typing names in signatures only need to be subscriptable
    import typing
    scope.update(Dict=typing.Dict, Sequence=typing.Sequence)
    functions(llava / "mm_utils.py", ["tokenizer_image_token"], scope)
    multimodal, v1 = functions(llava / "train" / "train.py", ["preprocess_multimodal", "preprocess_v1"], scope)
    tokenizers = {"tiny": ROOT / "models/tiny/DTE-FDM", "legacy": ROOT / "tests/golden/text/dte_legacy"}
    cases = []
    for name, has_image, turns in conversations():
        results = []
        for kind, folder in tokenizers.items():
            for limit, start_end in [(4096, False), (100, False), (4096, True)]:
                if start_end and (kind == "legacy" or not has_image):
                    continue
                t = transformers.LlamaTokenizer.from_pretrained(folder, model_max_length=limit, padding_side="right")
                assert t.legacy == (kind == "legacy")
                t.pad_token = t.unk_token
                source = [[dict(x) for x in turns]]
                if has_image:
                    source = multimodal(source, types.SimpleNamespace(is_multimodal=True, mm_use_im_start_end=start_end))
                said = io.StringIO()
                with contextlib.redirect_stdout(said):
                    made = v1(source, t, has_image=has_image)
                ids, labels = made["input_ids"][0][:limit].tolist(), made["labels"][0][:limit].tolist()
                results.append({"tokenizer": kind, "max_length": limit, "im_start_end": start_end, "mismatch": "mismatch" in said.getvalue(),
                                "ids": ids, "labels": labels})
        words = sum(len(x["value"].split()) for x in turns)
        cases.append({"name": name, "image": has_image, "conversations": turns, "words": words, "results": results})
    write(out, "LLaVA's preprocess_v1 under transformers 4.37.2", cases)


def worker_segm(upstream, out):
    import numpy as np
    import torch
    from transformers import LlamaTokenizer
    mflm = Path(upstream) / "MFLM"
    conversation = module(mflm / "model/llava/conversation.py", "conversation_lib")
    conversation.default_conversation = conversation.conv_templates["llava_v1"]
    lists = module(mflm / "dataset/utils/utils.py", "lists")
    scope = {"torch": torch, "np": np, "conversation_lib": conversation, "IGNORE_INDEX": -100, "IMAGE_TOKEN_INDEX": -200, "DEFAULT_IMAGE_TOKEN": "<image>",
             "DEFAULT_IM_START_TOKEN": "<im_start>", "DEFAULT_IM_END_TOKEN": "<im_end>", "F": torch.nn.functional, "print": lambda *a: None}
    functions(mflm / "model/llava/mm_utils.py", ["tokenizer_image_token"], scope)
    collate, _ = functions(mflm / "dataset/dataset.py", ["custom_collate_fn", "_process_conversation"], scope)
    turn = {}
    # what the dataset class draws at random, in its order: a question without description, one with it, an answer
    choose = {id(lists.LONG_QUESTION_LIST): "bare", id(lists.ANSWER_LIST): "answer"}
    scope.update(ANSWER_LIST=lists.ANSWER_LIST, SEG_QUESTIONS=lists.SEG_QUESTIONS, IML_TAMPER_QUESTION_LIST=lists.IML_TAMPER_QUESTION_LIST,
                 LONG_QUESTION_LIST=lists.LONG_QUESTION_LIST,
                 random=types.SimpleNamespace(choice=lambda v: v[turn[choose.get(id(v), "question")]]),
                 cv2=types.SimpleNamespace(imread=lambda path, mode=None: np.zeros((8, 8) if mode else (8, 8, 3), np.uint8), cvtColor=lambda x, how: x,
                                           COLOR_BGR2RGB=1, IMREAD_GRAYSCALE=1),
                 CLIPImageProcessor=None, ResizeLongestSide=None)
    Dataset, = functions(mflm / "dataset/Tamper_PS_Segm_ds.py", ["TamperSegmDataset"], scope)
    texts = [None, ANSWER, "1. Whether it is: yes.\n2. Basis:\n- edges", " spaces around ", "", "図は 👍 &lt;b&gt;", "no. " * 200]
    cases = []
    for text in texts:
        questions = 2 if text is None else 3
        for k in range(5):
            d = Dataset.__new__(Dataset)
            d.num_classes_per_sample = 1
            d.explanatory_question_list = ["Based on the description of the tampered area, please give the mask of the tampered area.",
                                           "Please provide a mask of the tampered region based on the description of the tampered region given above.",
                                           "Please give the mask of the tampered area based on the description of the tampered area given above."]
            d.long_question_list, d.answer_list = lists.LONG_QUESTION_LIST, lists.ANSWER_LIST
            d.begin_str = "The <image> provides an overview of the picture.\n"
            d.iml_det_seg_data = (["a/picture.jpg"], ["a/mask.png"])
            d.img_to_explanation = {} if text is None else {"picture.jpg": {"outputs": text}}
            d.global_enc_processor = types.SimpleNamespace(preprocess=lambda image, return_tensors: {"pixel_values": [torch.zeros(3, 8, 8)]})
            d.transform = types.SimpleNamespace(apply_image=lambda image: image)
            d.grounding_enc_processor = lambda x: x
            turn = {"bare": k % 2, "question": k % 3, "answer": k}
            scope["random"].choice = lambda v: v[turn[choose.get(id(v), "question")]]
            sample = Dataset.__getitem__(d, 0)
            for limit, inference in [(1536, False), (575 + 120, False), (575 + 120, True)]:
                t = LlamaTokenizer.from_pretrained(ROOT / "models/tiny/MFLM", model_max_length=limit, padding_side="right")
                t.pad_token = t.unk_token
                batch = collate([sample], tokenizer=t, use_mm_start_end=True, inference=inference)
                cases.append({"text": text, "question": k % questions, "answer": k, "max_length": limit, "train": not inference,
                              "ids": batch["input_ids"][0].tolist(), "labels": batch["labels"][0].tolist()})
    write(out, "FakeShield's TamperSegmDataset and custom_collate_fn under transformers 4.28.0", cases)


def worker_order(upstream, out):
    import torch
    import typing
    from accelerate.data_loader import BatchSamplerShard
    rng, drawn = random.Random(7), []

    def randperm(n, generator=None):
        p = list(range(n))
        rng.shuffle(p)
        drawn.append(p)
        return torch.tensor(p, dtype=torch.long)

    fake = types.SimpleNamespace(randperm=randperm)
    scope = {"torch": fake, "List": typing.List, "Optional": typing.Optional}
    by_modality, _, _ = functions(Path(upstream) / "DTE-FDM/llava/train/llava_trainer.py",
                                  ["get_modality_length_grouped_indices", "get_length_grouped_indices", "split_to_even_chunks"], scope)
    grouped, divided, distributed = [], [], []
    for n, batch, world, kind in [(1, 1, 1, "pictures"), (24, 3, 2, "pictures"), (25, 3, 2, "pictures"), (26, 3, 2, "pictures"), (50, 4, 3, "pictures"),
                                  (7, 4, 2, "pictures"), (40, 6, 4, "texts"), (23, 2, 1, "texts"), (60, 4, 2, "mixed"), (61, 5, 1, "mixed"),
                                  (48, 3, 4, "mixed"), (33, 2, 2, "one text"), (9, 4, 2, "mixed"), (2, 4, 2, "one text"), (32, 2, 2, "same length")]:
        lengths = [rng.randint(1, 40) for _ in range(n)]
        for i in range(n):
            if kind == "texts" or kind == "mixed" and rng.random() < 0.4 or kind == "one text" and i == n // 2:
                lengths[i] = -lengths[i]
            if kind == "same length":
                lengths[i] = 9
        drawn.clear()
        order = by_modality(lengths, batch, world)
        grouped.append({"kind": kind, "batch": batch, "world": world, "lengths": lengths, "permutations": [list(p) for p in drawn],
                        "order": [int(i) for i in order]})
    for n in [1, 2, 5, 6, 7, 11, 12, 13, 24, 29]:
        for batch, world in [(1, 1), (4, 1), (1, 3), (2, 3), (4, 2), (6, 4)]:
            order = list(range(n))
            rng.shuffle(order)
            batches = torch.utils.data.BatchSampler(order, batch, False)
            # accelerate takes one process's batches as they are
            each = [list(batches) if world == 1 else list(BatchSamplerShard(batches, world, r)) for r in range(world)]
            divided.append({"batch": batch, "world": world, "order": order, "each": [[i for b in one for i in b] for one in each]})
            drawn.clear()
            real, torch.randperm = torch.randperm, randperm
            try:
                shards = []
                for r in range(world):
                    state = rng.getstate()
                    shards.append([int(i) for i in torch.utils.data.DistributedSampler(range(n), world, r, shuffle=True, seed=0)])
                    if r + 1 < world:
                        rng.setstate(state)
            finally:
                torch.randperm = real
            distributed.append({"world": world, "permutation": drawn[0], "each": shards})
    out = Path(out)
    out.write_text(json.dumps({"about": "LLaVA's length-grouped sampler, accelerate 0.25.0's BatchSamplerShard, torch 1.13.1's DistributedSampler",
                               "grouped": grouped, "divided": divided, "distributed": distributed}, separators=(",", ":")) + "\n")


def write(path, about, cases):
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    Path(path).write_text('{"about":%s,"cases":[\n%s\n]}\n' % (json.dumps(about), lines))


def main():
    if sys.argv[1:2] == ["--worker"]:
        return globals()["worker_" + sys.argv[2]](*sys.argv[3:])
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    upstream, check = sys.argv[1], "--check" in sys.argv
    env = {**os.environ, "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE", "SkylakeX"), "TRANSFORMERS_VERBOSITY": "critical"}
    bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        for name, generation in [("conversations", "437"), ("segm", "428"), ("order", "437")]:
            made = Path(tmp) / (name + ".json")
            subprocess.run([str(ENV / f"tf{generation}" / "bin" / "python"), __file__, "--worker", name, upstream, str(made)], check=True, env=env)
            kept = GOLDEN / made.name
            if not check:
                GOLDEN.mkdir(exist_ok=True)
                kept.write_bytes(made.read_bytes())
            elif kept.read_bytes() != made.read_bytes():
                print(f"tests/golden/train_data/{made.name} differs from what the reference says now")
                bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main())
