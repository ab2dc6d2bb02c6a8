"""Checks a folder that `hearth quantize` wrote (awq, rtn) against transformers: every tensor's name, shape and value.

  python3 scripts/golden/check_awq.py FOLDER FLOAT_FOLDER [TEXT]       (needs torch and transformers)

1. transformers builds the model of FOLDER's config.json. Every nn.Linear that quantization_config converts must be there as
   AutoAWQ's WQLinear_GEMM holds it (qweight, qzeros int32, scales float16), every other parameter under its own name and
   shape, and nothing else.
2. The packed linears are dequantized here, from the format's definition, and loaded strictly into that model. Undoing the
   scales that AWQ moves between layers, each must be near the float weights: the product of neighbours is compared, not the
   parts, by running both models.
3. With TEXT, the perplexity of both, in windows of 512 tokens, as `hearth eval --window 512` computes it.
Prints a JSON report; exit code 1 when anything differs.
"""
import json
import math
import os
import sys

import tokenizers
import torch
import transformers
from safetensors import safe_open

ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # nibble that holds column 8c + i


def tensors_of(folder):
    out = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            with safe_open(os.path.join(folder, name), "pt") as file:
                out.update({key: file.get_tensor(key) for key in file.keys()})
    return out


def unpack(words):
    """int32 [rows, n / 8] -> [rows, n] of 0..15."""
    shifts = torch.tensor([4 * n for n in ORDER])
    return ((words.long()[..., None] >> shifts) & 15).reshape(words.shape[0], -1)


def dequantize(qweight, qzeros, scales):
    group = qweight.shape[0] // scales.shape[0]
    q, z, s = unpack(qweight), unpack(qzeros).repeat_interleave(group, 0), scales.float().repeat_interleave(group, 0)
    return ((q - z).float() * s).t().contiguous()


def build(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        del config.quantization_config
    kind = transformers.AutoModelForImageTextToText if hasattr(config, "vision_config") else transformers.AutoModelForCausalLM
    return kind.from_config(config, dtype=torch.float32).eval(), quantization


def canonical(name):
    """Old and new prefixes of vision models' files, as transformers maps them when it loads."""
    for old, new in (("language_model.model.", "model.language_model."), ("vision_tower.", "model.vision_tower."),
                     ("multi_modal_projector.", "model.multi_modal_projector."), ("language_model.lm_head.", "lm_head.")):
        if name.startswith(old):
            return (new + name[len(old):]).replace("vision_tower.vision_model.", "vision_tower.")
    return name


def check_layout(model, quantization, tensors, problems):
    """The state dict to load; what is missing, misshapen, of another type or left over goes to `problems`."""
    skip = [canonical(s + ".").rstrip(".") for s in (quantization["modules_to_not_convert"] or [])] + ["lm_head"]
    left, state, converted = {canonical(k): v for k, v in tensors.items()}, {}, 0
    linears = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not any(s in name for s in skip)}
    group = quantization["group_size"]
    for name, linear in linears.items():
        i, o = linear.in_features, linear.out_features
        wanted = {"qweight": ((i, o // 8), torch.int32), "qzeros": ((i // group, o // 8), torch.int32), "scales": ((i // group, o), torch.float16)}
        parts = {}
        for part, (shape, dtype) in wanted.items():
            tensor = left.pop(f"{name}.{part}", None)
            if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != dtype:
                problems.append(f"{name}.{part}: {None if tensor is None else (tuple(tensor.shape), tensor.dtype)}, wanted {shape} {dtype}")
            parts[part] = tensor
        if all(t is not None for t in parts.values()):
            state[f"{name}.weight"] = dequantize(**parts)
            converted += 1
    shared = set(model._tied_weights_keys or []) if model.config.tie_word_embeddings or getattr(model.config.get_text_config(), "tie_word_embeddings", False) else set()
    for name, parameter in model.state_dict().items():
        if name in state:
            continue
        tensor = left.pop(name, None)
        if tensor is None and name in ("lm_head.weight",) and shared:
            continue
        if tensor is None and name.endswith("embed_tokens.weight") and "lm_head.weight" in left:
            tensor = left.pop("lm_head.weight")  # some files keep the shared table under the head's name
        if tensor is None or tensor.shape != parameter.shape:
            problems.append(f"{name}: {None if tensor is None else tuple(tensor.shape)}, wanted {tuple(parameter.shape)}")
            continue
        state[name] = tensor.float()
    problems += [f"{name}: nothing in transformers' model takes it" for name in left]
    return state, converted


def load_float(folder):
    model, _ = build(folder)
    state = {canonical(k): v.float() for k, v in tensors_of(folder).items()}
    tied = next((k for k in model.state_dict() if k.endswith("embed_tokens.weight")), None)
    if tied not in state:
        state[tied] = state["lm_head.weight"]
    missing, extra = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not extra, (missing, extra)
    model.tie_weights()
    return model


@torch.no_grad()
def perplexity(model, ids, window=512):
    rows = ids[:len(ids) // window * window].view(-1, window)
    total = 0.0
    for row in rows.split(8):
        logits = model(input_ids=row).logits.float()
        total += torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), row[:, 1:].reshape(-1), reduction="sum").item()
    return math.exp(total / (rows.numel() - len(rows)))


def main():
    folder, source = sys.argv[1:3]
    torch.manual_seed(1)
    model, quantization = build(folder)
    quantization = quantization if isinstance(quantization, dict) else quantization.to_dict()
    problems = []
    state, converted = check_layout(model, quantization, tensors_of(folder), problems)
    report = {"folder": folder, "transformers": transformers.__version__, "linears": converted, "tensors": len(state)}
    if not problems:
        missing, extra = model.load_state_dict(state, strict=False)
        problems += [f"not loaded: {name}" for name in missing if name != "lm_head.weight"] + [f"not taken: {name}" for name in extra]
        model.tie_weights()
        exact = load_float(source)
        ids = torch.randint(5, model.config.get_text_config().vocab_size, (4, 64))
        with torch.no_grad():
            a, b = exact(input_ids=ids).logits.float(), model(input_ids=ids).logits.float()
        report["logit_error"] = ((a - b).square().sum() / (a - a.mean(-1, keepdim=True)).square().sum()).sqrt().item()
        if not report["logit_error"] < 0.5:  # wrong nibbles or columns give about 1.4
            problems.append(f"logits differ by {report['logit_error']:.3f} of their size")
        if len(sys.argv) > 3:
            text = open(sys.argv[3], encoding="utf-8").read()
            tokens = torch.tensor(tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json")).encode(text).ids[:32768])
            report["perplexity"] = {"float": perplexity(exact, tokens), "quantized": perplexity(model, tokens), "tokens": len(tokens)}
    report["problems"] = problems
    print(json.dumps(report, indent=1))
    sys.exit(1 if problems else 0)


main()
