"""The model, written for training speed, with the arithmetic and parameter names of LlavaForConditionalGeneration.

SigLIP-style tower (pre-norm, biases, tanh GELU, no class token, last layer's output before any final norm), two-layer
GELU projector, Llama with grouped-query attention and tied embeddings. `to_huggingface` gives the state dict that
transformers loads; models/hearth-tiny-vl/config.json is `config()`.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import bpe
from batches import CONTEXT, IMAGE_TOKENS

VISION = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=5, num_attention_heads=4, image_size=144, patch_size=16,
              num_channels=3, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, attention_dropout=0.0)
TEXT = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
            vocab_size=bpe.VOCABULARY, rms_norm_eps=1e-5, max_position_embeddings=CONTEXT, hidden_act="silu")
ROPE_THETA = 10000.0
HEAD = 64


def attend(q, k, v, bias=None):
    """softmax(q k^T / sqrt(d) + bias) v over [B, H, L, D]."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.softmax(scores if bias is None else scores + bias, -1) @ v


def heads(x, count):
    return x.view(x.shape[0], x.shape[1], count, HEAD).transpose(1, 2)


class VisionLayer(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        h = self.layer_norm1(x)
        n = h.shape[-1] // HEAD
        mixed = attend(heads(self.q_proj(h), n), heads(self.k_proj(h), n), heads(self.v_proj(h), n))
        x = x + self.out_proj(mixed.transpose(1, 2).reshape(x.shape))
        h = self.fc1(self.layer_norm2(x))
        return x + self.fc2(F.gelu(h, approximate="tanh"))


class Vision(nn.Module):
    def __init__(self, c=VISION):
        super().__init__()
        width, self.patch = c["hidden_size"], c["patch_size"]
        self.patch_embedding = nn.Linear(3 * self.patch ** 2, width)
        self.position_embedding = nn.Parameter(torch.randn(IMAGE_TOKENS, width) * .02)
        self.layers = nn.ModuleList(VisionLayer(width, c["intermediate_size"]) for _ in range(c["num_hidden_layers"]))

    def forward(self, pixels):
        """pixels [N, 3, S, S] in -1..1 -> [N, patches, width]; patches in raster order."""
        n, _, s, _ = pixels.shape
        g, p = s // self.patch, self.patch
        x = pixels.view(n, 3, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(n, g * g, 3 * p * p)
        x = self.patch_embedding(x)
        x = x + self.position_embedding.to(x.dtype)
        for layer in self.layers:
            x = layer(x)
        return x


class RMSNorm(nn.Module):
    def __init__(self, width, eps=TEXT["rms_norm_eps"]):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        f = x.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight.to(x.dtype)


def rotate(x, cos, sin):
    """Rotary embedding, halves convention; x [B, H, L, D], cos/sin [B, 1, L, D]."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class TextLayer(nn.Module):
    def __init__(self, c=TEXT):
        super().__init__()
        width, inner = c["hidden_size"], c["intermediate_size"]
        self.n, self.kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(width), RMSNorm(width)
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.q_proj, self.o_proj = linear(width, self.n * HEAD), linear(self.n * HEAD, width)
        self.k_proj, self.v_proj = linear(width, self.kv * HEAD), linear(width, self.kv * HEAD)
        self.gate_proj, self.up_proj, self.down_proj = linear(width, inner), linear(width, inner), linear(inner, width)

    def attention(self, h, cos, sin, bias):
        q, k, v = heads(self.q_proj(h), self.n), heads(self.k_proj(h), self.kv), heads(self.v_proj(h), self.kv)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        r = self.n // self.kv
        mixed = attend(q, k.repeat_interleave(r, 1), v.repeat_interleave(r, 1), bias)
        return self.o_proj(mixed.transpose(1, 2).reshape(h.shape[0], h.shape[1], -1))

    def mlp(self, h):
        return self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))

    def forward(self, x, cos, sin, bias):
        x = x + self.attention(self.input_layernorm(x), cos, sin, bias)
        return x + self.mlp(self.post_attention_layernorm(x))


def rope_table(length=CONTEXT):
    inverse = 1.0 / ROPE_THETA ** (torch.arange(0, HEAD, 2, dtype=torch.float32) / HEAD)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * inverse
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


def block_mask(documents, branches, dtype):
    """Additive mask [R, 1, L, L]: same document, not later, and in the head (branch 0) or the same branch."""
    d, b = documents, branches
    length = d.shape[1]
    order = torch.arange(length, device=d.device)
    seen = (d[:, :, None] == d[:, None, :]) & (order[:, None] >= order[None, :])
    seen = seen & ((b[:, None, :] == 0) | (b[:, :, None] == b[:, None, :]))
    return torch.zeros((), dtype=dtype, device=d.device).masked_fill(~seen, torch.finfo(dtype).min / 2)[:, None]


class Tiny(nn.Module):
    """The whole model. Weights are float32; run it under autocast for bf16."""

    def __init__(self):
        super().__init__()
        width = TEXT["hidden_size"]
        self.vision = Vision()
        self.linear_1, self.linear_2 = nn.Linear(VISION["hidden_size"], width), nn.Linear(width, width)
        self.embed_tokens = nn.Parameter(torch.randn(TEXT["vocab_size"], width) * .02)
        self.layers = nn.ModuleList(TextLayer() for _ in range(TEXT["num_hidden_layers"]))
        self.norm = RMSNorm(width)
        cos, sin = rope_table()
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    def initialise(self):
        depth = math.sqrt(2 * TEXT["num_hidden_layers"])
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=.5 / math.sqrt(module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if name.endswith(("o_proj", "down_proj", "out_proj", "fc2")):
                    module.weight.data /= depth

    def project(self, features):
        return self.linear_2(F.gelu(self.linear_1(features)))

    def embed(self, ids, features, starts):
        """Token embeddings with picture features written over the <image> runs that begin at flat `starts`."""
        rows, length = ids.shape
        x = F.embedding(ids, self.embed_tokens).to(features.dtype).reshape(rows * length, -1)
        x = torch.cat((x, x.new_zeros(IMAGE_TOKENS, x.shape[1])))
        at = (starts[:, None] + torch.arange(IMAGE_TOKENS, device=ids.device)).reshape(-1)
        return x.index_copy(0, at, features.reshape(len(at), -1))[:rows * length].view(rows, length, -1)

    def language(self, x, positions, bias):
        cos, sin = self.cos[positions][:, None].to(x.dtype), self.sin[positions][:, None].to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, bias)
        return self.norm(x)

    def logits(self, hidden):
        return hidden @ self.embed_tokens.to(hidden.dtype).t()

    def forward(self, ids, positions, bias, features, starts):
        """features [N, 81, vision width] -> final hidden states [R, L, width]."""
        return self.language(self.embed(ids, self.project(features), starts), positions, bias)


def checkpoint_name(name):
    """The LLaVA checkpoint's name for one of our parameters; None for what is not shipped."""
    parts = name.split(".")
    if parts[0] == "vision":
        base = "vision_tower.vision_model."
        if parts[1] == "patch_embedding":
            return base + "embeddings.patch_embedding." + parts[2]
        if parts[1] == "position_embedding":
            return base + "embeddings.position_embedding.weight"
        group = "self_attn." if parts[3].endswith("_proj") else "mlp." if parts[3].startswith("fc") else ""
        return base + f"encoder.layers.{parts[2]}.{group}{parts[3]}.{parts[4]}"
    if parts[0] in ("linear_1", "linear_2"):
        return "multi_modal_projector." + name
    if parts[0] == "embed_tokens":
        return "language_model.model.embed_tokens.weight"
    if parts[0] == "norm":
        return "language_model.model.norm.weight"
    if parts[0] == "layers":
        attention = parts[2][0] in "qkvo" and parts[2].endswith("_proj")
        group = "self_attn." if attention else "mlp." if parts[2].endswith("_proj") else ""
        return f"language_model.model.layers.{parts[1]}.{group}{parts[2]}.{parts[3]}"
    return None


def to_huggingface(model):
    """{name: float32 tensor} under the names of a LLaVA checkpoint."""
    out, patch, width = {}, VISION["patch_size"], VISION["hidden_size"]
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().float().cpu().clone()
        if name == "vision.patch_embedding.weight":
            tensor = tensor.view(-1, 3, patch, patch)
        out[checkpoint_name(name)] = tensor.contiguous()
    out["vision_tower.vision_model.post_layernorm.weight"] = torch.ones(width)      # present in SigLIP, unused by LLaVA
    out["vision_tower.vision_model.post_layernorm.bias"] = torch.zeros(width)
    return out


def config():
    """config.json of the checkpoint."""
    text = dict(TEXT, model_type="llama", attention_bias=False, mlp_bias=False, tie_word_embeddings=True, rope_theta=ROPE_THETA,
                rope_scaling=None, bos_token_id=None, eos_token_id=bpe.IM_END, pad_token_id=bpe.PAD, dtype="float16",
                initializer_range=0.02, use_cache=True, pretraining_tp=1, attention_dropout=0.0)
    return dict(architectures=["LlavaForConditionalGeneration"], model_type="llava", image_token_index=bpe.IMAGE,
                image_token_id=bpe.IMAGE, image_seq_length=IMAGE_TOKENS, projector_hidden_act="gelu", multimodal_projector_bias=True,
                vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True, dtype="float16",
                pad_token_id=bpe.PAD, eos_token_id=bpe.IM_END, text_config=text,
                vision_config=dict(VISION, model_type="siglip_vision_model", vision_use_head=False, dtype="float16"))
