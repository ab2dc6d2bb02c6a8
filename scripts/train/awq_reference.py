"""AWQ (Lin et al., MLSys 2024) for the language model, step by step as ../../docs and the paper state it, in PyTorch.

It is the reference the C++ search in engine-native/src/quantize is compared with, so it favours plainness over speed and
reports every loss it saw: `report` holds, per layer and group, the twenty scale losses, the chosen ratio and the clip gain.
"""
import os

import torch
import torch.nn.functional as F

import batches
import bpe
import export
import model as model_file

GROUP, LEVELS = 128, 15
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def quantise(w, group=GROUP):
    """Asymmetric round-to-nearest of w [out, in] in groups along the input: (codes, scales, zeros) as [out, groups, group|1]."""
    g = w.reshape(w.shape[0], -1, group)
    low, high = g.amin(-1, keepdim=True), g.amax(-1, keepdim=True)
    scale = (high - low).clamp(min=1e-5) / LEVELS
    zero = (-(low / scale).round()).clamp(0, LEVELS)
    return ((g / scale).round() + zero).clamp(0, LEVELS), scale, zero


def fake(w, group=GROUP):
    """w as 4 bits would give it back."""
    codes, scale, zero = quantise(w, group)
    return ((codes - zero) * scale).reshape(w.shape)


def search_scale(x, linears, inspect):
    """The best per-channel scale for linears that share input x [tokens, in]; (scale, losses of the 20 ratios, ratio)."""
    size = x.abs().reshape(-1, x.shape[-1]).mean(0)
    kept, wanted = [l.weight.data.clone() for l in linears], inspect()
    best, losses = None, []
    for i in range(20):
        scale = size.pow(i / 20).clamp(min=1e-4)
        scale = scale / (scale.max() * scale.min()).sqrt()
        for l, w in zip(linears, kept):
            l.weight.data = fake(w * scale) / scale
        losses.append((inspect() - wanted).float().square().mean().item())
        if best is None or losses[-1] < best[0]:
            best = (losses[-1], scale, i / 20)
    for l, w in zip(linears, kept):
        l.weight.data = w
    return best[1], losses, best[2]


def search_clip(w, x, batch=64):
    """The best clipping bound per (output channel, group): w [out, in], x [tokens, in] -> ([out, groups, 1], gain)."""
    x = x.reshape(-1, x.shape[-1])
    x = x[::max(1, len(x) // 512)][:512]
    x = x.reshape(len(x), -1, GROUP)
    bounds, before, after = [], 0., 0.
    for rows in w.split(batch):
        g = rows.reshape(len(rows), -1, GROUP)
        limit = g.abs().amax(-1, keepdim=True)
        wanted = torch.einsum("tgk,ogk->otg", x, g)
        best_error, best = None, limit.clone()
        for i in range(10):
            bound = limit * (1 - i / 20)
            clipped = g.clamp(-bound, bound)
            error = (torch.einsum("tgk,ogk->otg", x, fake(clipped.reshape(rows.shape)).reshape(g.shape)) - wanted).square().mean(1)
            if best_error is None:
                best_error, first = error, error
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best = torch.where(better[..., None], bound, best)
        bounds.append(best)
        before, after = before + first.sum().item(), after + best_error.sum().item()
    return torch.cat(bounds), 1 - after / max(before, 1e-12)


@torch.no_grad()
def awq(model, x, positions, bias, clip=True):
    """Scale, clip and (not yet) quantise the language layers of `model` in place.

    x [B, L, width]: embeddings of the calibration rows; positions [B, L]; bias: the additive mask. Returns the report.
    """
    report = []
    cos, sin = model.cos[positions][:, None], model.sin[positions][:, None]
    valid = positions >= 0
    for number, layer in enumerate(model.layers):
        seen = {}
        hooks = [getattr(layer, n).register_forward_pre_hook(lambda m, args, n=n: seen.__setitem__(n, args[0])) for n in LINEARS]
        following = layer(x, cos, sin, bias)
        for h in hooks:
            h.remove()
        entry = {"layer": number}
        groups = [("qkv", "q_proj", [layer.q_proj, layer.k_proj, layer.v_proj], layer.input_layernorm,
                   lambda: layer.attention(seen["q_proj"], cos, sin, bias)),
                  ("gate_up", "gate_proj", [layer.gate_proj, layer.up_proj], layer.post_attention_layernorm,
                   lambda: layer.mlp(seen["gate_proj"])),
                  ("down", "down_proj", [layer.down_proj], layer.up_proj, lambda: layer.down_proj(seen["down_proj"]))]
        for name, source, linears, before, inspect in groups:       # o_proj is skipped: v_proj has another shape (GQA)
            scale, losses, ratio = search_scale(seen[source][valid], linears, inspect)
            if isinstance(before, torch.nn.Linear):
                before.weight.data /= scale[:, None]
            else:
                before.weight.data /= scale
            for l in linears:
                l.weight.data *= scale
            for n in LINEARS:
                if getattr(layer, n) in linears:
                    seen[n] = seen[n] / scale
            entry[name] = {"ratio": ratio, "losses": losses, "scale_min": scale.min().item(), "scale_max": scale.max().item()}
        if clip:
            for n in LINEARS:
                if n in ("q_proj", "k_proj"):
                    continue
                linear = getattr(layer, n)
                bound, gain = search_clip(linear.weight.data, seen[n][valid])
                g = linear.weight.data.reshape(len(bound), -1, GROUP)
                linear.weight.data = g.clamp(-bound, bound).reshape(linear.weight.shape)
                entry["clip_" + n] = {"gain": gain}
        report.append(entry)
        x = following
    return report


@torch.no_grad()
def quantise_language(model):
    """Replace every language linear by its 4-bit value; returns {name: (codes, scales, zeros)} with scales as stored (fp16)."""
    kept = {}
    for i, layer in enumerate(model.layers):
        for n in LINEARS:
            linear = getattr(layer, n)
            codes, scale, zero = quantise(linear.weight.data)
            scale = scale.half().float()
            kept[f"language_model.model.layers.{i}.{'self_attn' if n[0] in 'qkvo' else 'mlp'}.{n}"] = (codes, scale, zero)
            linear.weight.data = ((codes - zero) * scale).reshape(linear.weight.shape)
    return kept


def pack(values):
    """[rows, OC] integers 0..15 -> int32 [rows, OC / 8] in AutoAWQ's nibble order."""
    rows = values.to(torch.int64).reshape(values.shape[0], -1, 8)
    word = torch.zeros(rows.shape[:2], dtype=torch.int64)
    for nibble, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        word |= rows[..., column] << (4 * nibble)
    return torch.where(word >= 1 << 31, word - (1 << 32), word).to(torch.int32)


def gemm_tensors(model, kept):
    """The AutoAWQ "gemm" state dict: packed language linears, everything else FP16."""
    out = {}
    for name, tensor in model_file.to_huggingface(model).items():
        base = name[:-len(".weight")]
        if base in kept:
            codes, scale, zero = (t.cpu() for t in kept[base])
            rows = codes.shape[0]
            out[base + ".qweight"] = pack(codes.reshape(rows, -1).t())
            out[base + ".qzeros"] = pack(zero.reshape(rows, -1).t())
            out[base + ".scales"] = scale.reshape(rows, -1).t().half().contiguous()
        else:
            out[name] = tensor.half()
    return out


def unpack(tensors):
    """A state dict whose packed linears are given back as float weights; others are passed through."""
    order, out = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7]), {}
    nibble = lambda t: ((t.long()[..., None] >> (4 * order)) & 15).reshape(t.shape[0], -1)
    for name, tensor in tensors.items():
        if name.endswith(".qweight"):
            base = name[:-len(".qweight")]
            zeros, scales = nibble(tensors[base + ".qzeros"]), tensors[base + ".scales"].float()
            wide = lambda t: t.repeat_interleave(GROUP, 0)
            out[base + ".weight"] = ((nibble(tensor) - wide(zeros)) * wide(scales)).t().contiguous()
        elif not name.endswith((".qzeros", ".scales")):
            out[name] = tensor
    return out


def unpack_check(tensors, kept):
    """Largest difference between the packed form read back and what was meant; 0 when the packing is right."""
    back = unpack(tensors)
    return max((back[base + ".weight"] - ((codes - zero) * scale).reshape(codes.shape[0], -1).cpu()).abs().max().item()
               for base, (codes, scale, zero) in kept.items())


# ---- calibration ---------------------------------------------------------------------------------------------------

def text_rows(count, seed=5):
    """`count` rows of 512 ids of plain chat and story text (no pictures), as `hearth quantize` would be given."""
    packer = batches.Packer(seed)
    import talk
    ids = []
    while len(ids) < count * batches.LENGTH:
        document = talk.chat_document(packer.rng, packer.library) if packer.rng.random() < .6 else talk.story_document(packer.rng, packer.library)
        if document.raw:
            ids += packer.raw(document.raw, 10 ** 6)[0]
        else:
            ids += packer.tokens.head(document) + packer.tokens.branch(document, document.branches[0])[0] + packer.tokens.newline
    return torch.tensor(ids[:count * batches.LENGTH]).view(count, batches.LENGTH)


@torch.no_grad()
def text_calibration(model, ids):
    """(x, positions, bias) of plain causal rows."""
    device = model.embed_tokens.device
    ids, order = ids.to(device), torch.arange(ids.shape[1], device=device)
    bias = torch.zeros(len(order), len(order), device=device).masked_fill(order[:, None] < order[None], -1e30)[None, None]
    return F.embedding(ids, model.embed_tokens), order[None].expand(len(ids), -1), bias


@torch.no_grad()
def picture_calibration(model, rows, seed, render):
    """(x, positions, bias) of packed conversations about pictures, as in training (other seeds)."""
    device = model.embed_tokens.device
    batch = {k: torch.from_numpy(v).to(device) for k, v in batches.Packer(seed, rows, rows * 3, rows * 160).batch().items()}
    generator = torch.Generator(device=device).manual_seed(seed)
    pixels = torch.cat([render(i, b, generator) for i, b in zip(batch["instances"].split(64), batch["backgrounds"].split(64))])
    features = model.project(model.vision(pixels * 2 - 1))
    x = model.embed(batch["ids"].long(), features, batch["starts"].long())
    return x, batch["positions"].long(), model_file.block_mask(batch["documents"], batch["branches"], torch.float32)


def folder_config():
    config = model_file.config()
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
                                     "modules_to_not_convert": ["vision_tower", "multi_modal_projector"]}
    return config


def write_folder(folder, model, kept):
    export.write_settings(folder, folder_config())
    tensors = gemm_tensors(model, kept)
    worst = unpack_check(tensors, kept)
    assert worst == 0, f"packing is wrong by {worst}"
    export.write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
