"""Reference outputs of the shipped FP16 folder from Hugging Face transformers, in float32.

    python3 capture.py --model models/hearth-tiny-vl --images FIXTURE --out DIR

Writes DIR/reference.safetensors (per case: input ids, last-position logits, some pixel and feature values) and
DIR/reference.json (prompts, greedy continuations, checksums). Needs transformers; pictures come from the eval fixture.
Also checks that the folder loads without missing weights, that our model gives the same logits, and that the tokenizer
agrees with scripts/train/bpe.py.
"""
import argparse
import hashlib
import json
import os
import random

import torch

import batches
import bpe
import evaluate
import export
import model as model_file


def cases(folder):
    """(name, messages) of about twelve prompts: text alone, one, two and three pictures, in-context, multi-turn."""
    lines = [json.loads(l) for l in open(next(os.path.join(folder, f) for f in sorted(os.listdir(folder)) if f.endswith(".jsonl")))]
    text = ["Hello!", "Tell me a story about a dog.", "How many circles are there?"]
    out = [("text-%d" % i, [{"role": "user", "content": t}]) for i, t in enumerate(text)]
    for kind in ("colour", "count", "word", "digit", "relation", "compare2", "compare3", "icl", "multiturn", "describe"):
        line = next((l for l in lines if l["kind"] == kind), None)
        if line:
            out.append((kind + "-" + line["id"], line["messages"]))
    return out


def pictures_of(messages, folder):
    from PIL import Image
    return [Image.open(os.path.join(folder, part["image"])).convert("RGB") for m in messages if isinstance(m["content"], list)
            for part in m["content"] if part["type"] == "image"]


def check_tokenizer(tokenizer):
    """Both tokenizers must agree on text like the training text."""
    rng, tokens = random.Random(3), batches.Tokens()
    import talk
    words, library, n = talk.load_words(), talk.Library(), 0
    for _ in range(300):
        for branch in talk.sample_document(rng, words, library).branches:
            for question, answer, _ in branch:
                for text in (question, answer):
                    if isinstance(text, str):
                        assert tokenizer.encode(text, add_special_tokens=False) == tokens.encoder.encode(text), text
                        n += 1
    for story in library.stories[:50]:
        assert tokenizer.encode(story, add_special_tokens=False) == tokens.encoder.encode(story), story
    return n


@torch.no_grad()
def our_logits(model, ids, pixels):
    """Last-position logits of our own model on the same ids and pixels."""
    features = model.vision(pixels) if pixels is not None else torch.zeros(1, 81, 256)
    places = (ids[0] == bpe.IMAGE).nonzero()[:, 0][::batches.IMAGE_TOKENS]
    starts = places if len(places) else torch.tensor([ids.shape[1]])
    order = torch.arange(ids.shape[1])
    bias = torch.zeros(len(order), len(order)).masked_fill(order[:, None] < order[None], float("-inf"))[None, None]
    return model.logits(model(ids, order[None], bias, features, starts))[0, -1]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--images", required=True)
    p.add_argument("--out", required=True)
    o = p.parse_args()
    os.makedirs(o.out, exist_ok=True)
    import transformers
    from transformers import AutoProcessor, LlavaForConditionalGeneration
    model, info = LlavaForConditionalGeneration.from_pretrained(o.model, dtype=torch.float32, output_loading_info=True)
    print("loading:", {k: v for k, v in info.items() if v})
    model.eval()
    processor = AutoProcessor.from_pretrained(o.model)
    print("processor:", type(processor).__name__, type(processor.image_processor).__name__, type(processor.tokenizer).__name__)
    print("tokenizer agrees on", check_tokenizer(processor.tokenizer), "texts")
    ours = export.load_weights(model_file.Tiny(), export.read_safetensors(os.path.join(o.model, "model.safetensors"))).eval()
    tensors, described, worst = {}, [], 0.
    for name, messages in cases(o.images):
        pictures = pictures_of(messages, o.images)
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=text, images=pictures or None, return_tensors="pt")
        pixels = inputs.get("pixel_values")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1].float()
            reply = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1]:]
            entry = {"name": name, "messages": messages, "rendered": text, "greedy_ids": reply.tolist(),
                     "greedy_text": processor.tokenizer.decode(reply, skip_special_tokens=True)}
            tensors[name + ".input_ids"], tensors[name + ".logits"] = inputs["input_ids"][0].int(), logits
            if pixels is not None:
                features = model.get_image_features(pixel_values=pixels)
                features = getattr(features, "pooler_output", features)
                features = torch.cat([f.reshape(-1, f.shape[-1]) for f in features]) if not torch.is_tensor(features) else features.reshape(-1, features.shape[-1])
                entry["pixel_values"] = {"shape": list(pixels.shape), "sum": pixels.double().sum().item(),
                                         "sha256_float32": hashlib.sha256(pixels.float().numpy().tobytes()).hexdigest(),
                                         "first": pixels[0, :, 0, :4].flatten().tolist()}
                entry["features"] = {"shape": list(features.shape), "norm": features.norm().item()}
                tensors[name + ".features_first"] = features[:4].contiguous().float()
                tensors[name + ".pixels_row"] = pixels[:, :, pixels.shape[2] // 2].contiguous().float()
            mine = our_logits(ours, inputs["input_ids"], pixels)
            worst = max(worst, (mine - logits).abs().max().item())
        described.append(entry)
    print("largest logit difference, ours against transformers:", worst)
    export.write_safetensors(os.path.join(o.out, "reference.safetensors"), tensors)
    export.dump(os.path.join(o.out, "reference.json"), {"transformers": transformers.__version__, "torch": torch.__version__,
                                                       "dtype": "float32", "largest_difference_from_training_model": worst, "cases": described})


if __name__ == "__main__":
    main()
