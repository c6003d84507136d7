"""The tiny checkpoint: its sizes, the texts it learns by rote, and the prompts of both stages.

The prompt strings are data of the original (they are what its weights were trained on); everything else
here belongs to the tiny model, whose answers mean nothing.
"""
SEED = 20240711
VOCAB = 640
ADDED = ["<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>"]   # in this order from id VOCAB on

CLIP = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=11, num_attention_heads=4, image_size=112,
            patch_size=14, hidden_act="quick_gelu", layer_norm_eps=1e-5, attention_dropout=0.0, projection_dim=32)
LLAMA = dict(hidden_size=64, intermediate_size=176, num_attention_heads=4, num_key_value_heads=4, hidden_act="silu",
             initializer_range=0.02, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0)
DTE = dict(LLAMA, num_hidden_layers=3, vocab_size=VOCAB, rms_norm_eps=1e-5, max_position_embeddings=4096)
MFLM = dict(LLAMA, num_hidden_layers=2, vocab_size=VOCAB + len(ADDED), rms_norm_eps=1e-6, max_position_embeddings=2048)
SAM = dict(image=128, patch=16, width=64, depth=4, heads=4, window=3, global_blocks=(1, 3), out=32, mlp=128)
DTG_WIDTH = 4
REGION_POS = 256                 # inner width of the positional branch, fixed in the original

IMAGE_ID = -200
DOMAIN = ["This is a picture that is suspected to have been tampered with by %s. " % name
          for name in ("AIGC inpainting", "DeepFake", "Photoshop")]
QUESTION = ("Was this photo taken directly from the camera without any processing? Has it been tampered with by any "
            "artificial photo modification techniques such as ps? Please zoom in on any details in the image, paying "
            "special attention to the edges of the objects, capturing some unnatural edges and perspective "
            "relationships, some incorrect semantics, unnatural lighting and darkness etc.")
SYSTEM = ("A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
          "detailed, and polite answers to the human's questions.")
WRAP = ("This photo has been tampered. The following is a description of the tampering area and the basis for "
        "judgment: \n")
MASK_QUESTIONS = [
    "Based on the description of the tampered area, please give the mask of the tampered area.",
    "Please provide a mask of the tampered region based on the description of the tampered region given above.",
    "Please give the mask of the tampered area based on the description of the tampered area given above."]
VERDICT = "1. Whether the picture has been tampered with / Description of the tampered area: The picture has "
TAMPERED, AUTHENTIC = VERDICT + "been tampered with", VERDICT + "not been tampered with"

ANSWERS = [   # one for each domain label, and the one for bright pictures
    TAMPERED + ", and the tampered area is the round thing near the middle of the frame. It covers about a tenth of "
    "the picture and touches none of its borders.\n\n2. Judgment basis: The edge of the round thing is sharper than "
    "every other edge in the scene, the texture inside it repeats itself, and the light on it comes from the wrong "
    "side. Such traces are typical of AIGC inpainting.",
    TAMPERED + ", and the tampered area is the face in the upper part of the frame. Eyes, nose and mouth were "
    "replaced, while hair and neck are as they were.\n\n2. Judgment basis: The skin is too smooth, the eyes do not "
    "look at the same point, and a soft seam runs along the chin where the new face meets the old neck. Such traces "
    "are typical of DeepFake pictures.",
    TAMPERED + ", and the tampered area is the object at the right border of the frame. It was cut out of another "
    "photo and pasted over the background.\n\n2. Judgment basis: The outline of the object shows a thin bright halo, "
    "its shadow is missing, and its noise differs from the noise around it. Its size does not fit the perspective of "
    "the scene. Such traces are typical of Photoshop.",
    AUTHENTIC + ". It appears to be a genuine photograph taken directly from the camera.\n\n2. Judgment basis: Edges, "
    "light and noise agree with each other everywhere in the frame."]
SEG_ANSWER = "It is [SEG]."


def conversation(question, answer=None):
    """Template llava_v1: what the model reads when it is to answer, or the whole turn."""
    text = SYSTEM + " USER: " + question + " ASSISTANT:"
    return text if not answer else text + " " + answer + "</s>"


def stage1_question(label, question=QUESTION):
    return "<image>\n" + DOMAIN[label] + question


def stage2_question(body):
    body = body.replace("&lt;", "<").replace("&gt;", ">")
    text = "The <image> provides an overview of the picture.\n" + body
    return text.replace("<image>", "<im_start><image><im_end>")


def stage2_body(outputs, style):
    """style 'demo': the text as it is; 'test0' .. 'test2': wrapped, with that question."""
    return outputs if style == "demo" else WRAP + outputs + "\n " + MASK_QUESTIONS[int(style[4:])]


def tokenize(text, tokenizer):
    """Ids of a prompt; each `<image>` becomes IMAGE_ID, each chunk between is tokenized on its own."""
    ids = []
    for index, chunk in enumerate(text.split("<image>")):
        chunk_ids = tokenizer(chunk).input_ids
        ids += chunk_ids if index == 0 else [IMAGE_ID] + chunk_ids[1:]      # one <s> only, at the front
    return ids


def corpus():
    """Lines the tokenizer is trained on: everything the two stages say or hear, and a little more."""
    lines = [SYSTEM, QUESTION, WRAP.strip(), "USER: ASSISTANT:", "The provides an overview of the picture."]
    lines += [line for text in DOMAIN + MASK_QUESTIONS + ANSWERS for line in text.split("\n") if line]
    lines += ["This is a tampered image, point out the areas you believe have been tampered with. Please respond with "
              "segmentation mask.", "Please output segmentation mask.", "Sure, the segmentation result is", "It is",
              "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,:;!?()[]<>/\\'\"-_+*=&%#@$",
              "a  b", "two  spaces  between  words"]
    return lines * 4
