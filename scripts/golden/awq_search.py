"""The losses that AWQ's scale search reaches on the default model, by the plain PyTorch implementation of scripts/train.

  python3 scripts/golden/awq_search.py OUT.json     (needs torch; under a minute on a CPU)

tests/quantize compares the search of `hearth quantize` with them. Arithmetic is float32 on a CPU, on the first rows of
test/fixtures/default-model/calibration.safetensors; group scales are FP16 numbers, as every AWQ file stores them.
"""
import json
import os
import sys
import types

import torch

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "scripts", "train"))
sys.modules["batches"] = types.SimpleNamespace(CONTEXT=2048, IMAGE_TOKENS=81)  # the real one loads the drawn pictures
import awq_reference
import export
import model as model_file

ROWS = 4


def quantise(w, group=None):
    """awq_reference.quantise with the scale that is stored."""
    group = awq_reference.GROUP
    g = w.reshape(w.shape[0], -1, group)
    low, high = g.amin(-1, keepdim=True), g.amax(-1, keepdim=True)
    scale = ((high - low).clamp(min=1e-5) / 15).half().float()
    zero = (-(low / scale).round()).clamp(0, 15)
    return ((g / scale).round() + zero).clamp(0, 15), scale, zero


@torch.no_grad()
def search(group):
    awq_reference.GROUP, awq_reference.quantise = group, quantise
    model = export.load_weights(model_file.Tiny(), export.read_safetensors(os.path.join(ROOT, "models", "hearth-tiny-vl", "model.safetensors")))
    model = model.float().eval()
    ids = export.read_safetensors(os.path.join(ROOT, "test", "fixtures", "default-model", "calibration.safetensors"))["ids"]
    report = awq_reference.awq(model, *awq_reference.text_calibration(model, ids[:ROWS].long()), clip=False)
    return [{pair: {"losses": layer[pair]["losses"], "ratio": layer[pair]["ratio"]} for pair in ("qkv", "gate_up", "down")} for layer in report]


if __name__ == "__main__":
    result = {"rows": ROWS, "groups": {str(group): search(group) for group in (128, 64, 32)}}
    with open(sys.argv[1], "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
