"""Builds each network from the package it comes from and fills it from a checkpoint directory.

All sizes come from config.json and tensor shapes. Checkpoint tensors are converted to float32; callers that
want a reduced type convert the module afterwards.
"""
import json
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from region_encoder import RegionEncoder

torch.set_num_threads(int(os.environ.get("FAKESHIELD_REF_THREADS", "2")))
torch.set_grad_enabled(False)
ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "models" / "tiny"
GOLDEN = ROOT / "tests" / "golden"


def read_checkpoint(folder, dtype=torch.float32):
    """All tensors of a sharded checkpoint directory; dtype None keeps the stored types."""
    from safetensors.torch import load_file
    tensors = {}
    for path in sorted(Path(folder).glob("model-*.safetensors")):
        tensors.update(load_file(path))
    for path in sorted(Path(folder).glob("pytorch_model-*.bin")):
        tensors.update(torch.load(path, map_location="cpu"))
    return {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in tensors.items()}


def read_config(folder):
    return json.loads((Path(folder) / "config.json").read_text())


def part(tensors, prefix):
    return {k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)}


# ---- DTG -------------------------------------------------------------------------------------------------

def resnet50(width=64, classes=3, blocks=(3, 4, 6, 3)):
    """torchvision's ResNet-50, with its stem width changed from 64 and other numbers of blocks when asked."""
    from torchvision.models import resnet

    class Narrow(resnet.ResNet):
        def _make_layer(self, block, planes, *args, **kwargs):
            if planes == 64:
                self.inplanes = width
            return super()._make_layer(block, planes * width // 64, *args, **kwargs)

    model = Narrow(resnet.Bottleneck, list(blocks), num_classes=classes)
    if width != 64:
        model.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        model.bn1 = nn.BatchNorm2d(width)
        model.fc = nn.Linear(32 * width, classes)
    return model.eval()


def resnet_stages(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    out = {"stem": x}
    for i, layer in enumerate((model.layer1, model.layer2, model.layer3, model.layer4), 1):
        x = out["stage%d" % i] = layer(x)
    out["logits"] = model.fc(model.avgpool(x).flatten(1))
    return out


def load_dtg(path=TINY / "DTG.pth"):
    state = torch.load(path, map_location="cpu")
    model = resnet50(state["conv1.weight"].shape[0], state["fc.weight"].shape[0])
    model.load_state_dict(state)
    return model


# ---- CLIP and projector ----------------------------------------------------------------------------------

def load_clip(folder=TINY / "clip-vit-tiny"):
    from transformers import CLIPVisionModel
    return CLIPVisionModel.from_pretrained(str(folder)).eval()


def clip_hidden(model, pixels):
    """List of hidden states, 0 = after the first layer norm."""
    return model(pixels, output_hidden_states=True).hidden_states


def load_projector(tensors):
    weights = part(tensors, "model.mm_projector.")
    hidden, width = weights["0.weight"].shape
    model = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
    model.load_state_dict(weights)
    return model.eval()


# ---- LLaMA -----------------------------------------------------------------------------------------------

LLAMA_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                "rms_norm_eps", "max_position_embeddings", "hidden_act", "bos_token_id", "eos_token_id",
                "pad_token_id")


def llama(fields):
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(**{k: fields[k] for k in LLAMA_FIELDS if k in fields})
    return LlamaForCausalLM(config).eval()


def load_llama(folder, tensors):
    model = llama(read_config(folder))
    state = {k: v for k, v in tensors.items()
             if k.startswith(("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head."))
             and not k.endswith("inv_freq")}                 # the tables come from fresh frequencies, always
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all("inv_freq" in k for k in missing.missing_keys), missing
    return model


def embed(model, ids, rows):
    """Embeddings of ids with the image rows in place of each -200 run (one -200 stands for all rows)."""
    ids = list(ids)
    table = model.get_input_embeddings()
    at = ids.index(-200)
    before, after = torch.tensor(ids[:at], dtype=torch.long), torch.tensor(ids[at + 1:], dtype=torch.long)
    return torch.cat([table(before), rows.to(table.weight.dtype), table(after)])[None]


def llama_trace(model, embeds):
    """Outputs of each decoder layer, the final-norm state and the logits for one sequence."""
    out, hooks = {}, []
    for i, layer in enumerate(model.model.layers):
        hooks.append(layer.register_forward_hook(lambda m, a, r, i=i: out.__setitem__("layer_%d" % i, r[0][0])))
    hooks.append(model.model.norm.register_forward_hook(lambda m, a, r: out.__setitem__("final", r[0])))
    result = model(inputs_embeds=embeds, use_cache=False)
    for hook in hooks:
        hook.remove()
    out["logits"] = result.logits[0]
    return out


# ---- SAM -------------------------------------------------------------------------------------------------

class TextPrompt(nn.Module):
    """SAM's prompt encoder as FakeShield uses it: text vectors as sparse prompts, no points, boxes or masks."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def dense_pe(self):
        """SAM's own grid is float32; the original keeps it in the type of the (converted) buffer. In bfloat16 this must run under
        half.Rounded: PyTorch's CPU kernels round the product's terms and the factor 2 pi to bfloat16 too, the GPU's do not."""
        layer, (h, w) = self.encoder.pe_layer, self.encoder.image_embedding_size
        dtype = layer.positional_encoding_gaussian_matrix.dtype
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        return layer._pe_encoding(torch.stack([x, y], -1).to(dtype)).permute(2, 0, 1)[None]

    def forward(self, text):
        """text: [n, 1, D] -> sparse [n, 1, D], dense [n, D, h, w]."""
        h, w = self.encoder.image_embedding_size
        return text, self.encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(len(text), -1, h, w)


def sam(image, patch, width, depth, heads, window, global_blocks, out, mlp, encoder=True):
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
    model = nn.Module()
    if encoder:
        model.image_encoder = ImageEncoderViT(
            img_size=image, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=4, out_chans=out,
            qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=window,
            global_attn_indexes=global_blocks)
    grid = image // patch
    model.prompt_encoder = PromptEncoder(out, (grid, grid), (image, image), 16)
    model.mask_decoder = MaskDecoder(transformer_dim=out, num_multimask_outputs=3, iou_head_hidden_dim=out,
                                     transformer=TwoWayTransformer(depth=2, embedding_dim=out, mlp_dim=mlp, num_heads=8))
    for module in model.mask_decoder.modules():      # PyTorch 1.13 has no bfloat16 transposed convolution on a CPU
        if isinstance(module, nn.ConvTranspose2d):
            module.forward = partial(transposed, module)
    return model.eval()


def transposed(module, x):
    """The transposed convolution in float32, rounded once to x's type (nothing changes for float32)."""
    return F.conv_transpose2d(x.float(), module.weight.float(), module.bias.float(), module.stride).to(x.dtype)


def load_sam(tensors):
    t = part(tensors, "model.grounding_encoder.")
    _, grid, _, width = t["image_encoder.pos_embed"].shape
    patch = t["image_encoder.patch_embed.proj.weight"].shape[-1]
    depth = 1 + max(int(k.split(".")[2]) for k in t if k.startswith("image_encoder.blocks."))
    rel = [t["image_encoder.blocks.%d.attn.rel_pos_h" % i].shape for i in range(depth)]
    model = sam(grid * patch, patch, width, depth, width // rel[0][1],
                min((n + 1) // 2 for n, _ in rel), [i for i in range(depth) if (rel[i][0] + 1) // 2 == grid],
                t["image_encoder.neck.2.weight"].shape[0],
                t["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0])
    model.load_state_dict(t)
    return model


def sam_encode(model, pixels):
    """embed, block_i, neck of one picture [1, 3, S, S]."""
    out, x = {}, model.image_encoder.patch_embed(pixels) + model.image_encoder.pos_embed
    out["embed"] = x
    for i, block in enumerate(model.image_encoder.blocks):
        x = out["block_%d" % i] = block(x)
    out["neck"] = model.image_encoder.neck(x.permute(0, 3, 1, 2))
    return out


def sam_decode(model, embedding, text, pe=None):
    """All four masks [n, 4, 4g, 4g]; mask 0 is the one that is used."""
    prompt = TextPrompt(model.prompt_encoder)
    sparse, dense = prompt(text)
    pe = prompt.dense_pe() if pe is None else pe
    return model.mask_decoder.predict_masks(image_embeddings=embedding, image_pe=pe, sparse_prompt_embeddings=sparse,
                                            dense_prompt_embeddings=dense)[0]


def postprocess(low_res, image, input_size, original_size):
    """low_res [n, 1, s, s] -> logits [n, h, w] at the picture's own size; sizes are (h, w)."""
    x = F.interpolate(low_res.float(), (image, image), mode="bilinear", align_corners=False)
    x = x[..., :input_size[0], :input_size[1]]
    return F.interpolate(x, tuple(original_size), mode="bilinear", align_corners=False)[:, 0]


# ---- the rest of MFLM ------------------------------------------------------------------------------------

def load_text_fcs(tensors):
    t = part(tensors, "model.text_hidden_fcs.0.")
    model = nn.Sequential(nn.Linear(*t["0.weight"].shape[::-1]), nn.ReLU(), nn.Linear(*t["2.weight"].shape[::-1]))
    model.load_state_dict(t)
    return model.eval()


def load_region(tensors):
    t = part(tensors, "model.region_encoder.")
    model = RegionEncoder(t["mlvl_fuse.input_conv.0.weight"].shape[0], t["roi_align.pos_embedd.0.weight"].shape[0],
                          t["roi_align.updims.weight"].shape[0])
    model.load_state_dict(t)
    return model.eval()


# ---- preprocessing with the original's own tools ---------------------------------------------------------

def dtg_pixels(picture):
    from torchvision import transforms
    return transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
                               transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])(picture)[None]


def clip_pixels(picture, pad, folder=TINY / "clip-vit-tiny"):
    """picture: PIL RGB. Stage 1 pads to a square first, stage 2 crops."""
    from PIL import Image
    from transformers import CLIPImageProcessor
    processor = CLIPImageProcessor.from_pretrained(str(folder))
    if pad and picture.width != picture.height:
        side = max(picture.size)
        square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in processor.image_mean))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square
    return processor.preprocess(picture if pad else np.array(picture), return_tensors="pt")["pixel_values"]


def sam_pixels(picture, image):
    """Normalised, padded [1, 3, image, image] and the size (h', w') before padding."""
    from segment_anything.utils.transforms import ResizeLongestSide
    array = ResizeLongestSide(image).apply_image(np.array(picture))
    x = torch.from_numpy(array).permute(2, 0, 1).float()
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    x = (x - mean[:, None, None]) / std[:, None, None]
    return F.pad(x, (0, image - x.shape[2], 0, image - x.shape[1]))[None], array.shape[:2]
