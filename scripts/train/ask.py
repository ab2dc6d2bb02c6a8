"""Ask the trained model about picture files, on the CPU: python3 ask.py --model DIR "How many circles?" a.png [b.png ...]

Needs torch, numpy and Pillow, not transformers. Pictures come before the question; --after puts them behind it.
"""
import argparse
import copy
import os

import numpy as np
import torch

import awq_reference
import evaluate
import export
import model as model_file
import talk


def load(folder):
    """The model of a folder, FP16 or AWQ (dequantised)."""
    tensors = export.read_safetensors(os.path.join(folder, "model.safetensors"))
    return export.load_weights(model_file.Tiny(), awq_reference.unpack(tensors)).eval()


def ask(model, question, paths, after=False):
    from PIL import Image
    size = model_file.VISION["image_size"]
    pixels = [np.asarray(Image.open(p).convert("RGB").resize((size, size), Image.BICUBIC)).copy() for p in paths]
    pictures = list(range(len(paths)))
    document = talk.Document(pictures, [question] + pictures if after else pictures, [[(None if after else question, "", None)]])
    tokens = evaluate.Tokens()
    probe = copy.copy(evaluate.Prepared.__new__(evaluate.Prepared))
    probe.encoder, probe.device, probe.first = tokens.encoder, "cpu", [0]
    probe.prompts, probe.replies = zip(tokens.prompt(document))
    probe.pixels = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) if pixels else torch.zeros(1, 3, size, size, dtype=torch.uint8)
    return evaluate.generate(model, probe, evaluate.features(model, probe), [0], 160)[0]


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--after", action="store_true")
    p.add_argument("question")
    p.add_argument("pictures", nargs="*")
    o = p.parse_args()
    print(ask(load(o.model), o.question, o.pictures, o.after))
