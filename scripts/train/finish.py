"""After training: evaluate FP16, round-to-nearest and AWQ on held-out questions, quantise, and write what ships.

    python3 finish.py --model DIR --out OUT [--questions 5000]

DIR holds model.safetensors. Into OUT: model.safetensors (copied), awq.safetensors, evaluation.json, awq-report.json,
calibration.safetensors, sheet.png, fixture.tar.gz (pictures and eval-500.jsonl).
"""
import argparse
import copy
import json
import os
import random
import shutil
import subprocess
import time

import torch

import awq_reference
import evaluate
import export
import model as model_file
import render
import talk

EVAL_SEED, FIXTURE_SEED = 20_001, 30_001


def say(*words):
    print(f"[{time.time() - START:6.1f}]", *words, flush=True)


START = time.time()


def contact_sheet(path, prepared, count=64):
    from PIL import Image
    sheet = Image.new("RGB", (8 * 148, count // 8 * 148), "white")
    step = max(len(prepared.pixels) // count, 1)
    for i, pixels in enumerate(prepared.pixels[::step][:count]):
        sheet.paste(Image.fromarray(pixels.permute(1, 2, 0).numpy()), (i % 8 * 148 + 2, i // 8 * 148 + 2))
    sheet.save(path)


def quantised(model, calibration=None, clip=True):
    """A copy of `model` at 4 bits, its packed linears, and the AWQ report (None for round-to-nearest)."""
    twin = copy.deepcopy(model)
    report = awq_reference.awq(twin, *calibration, clip=clip) if calibration else None
    return twin, awq_reference.quantise_language(twin), report


def wrong_examples(prepared, results, count=6):
    out = {}
    for i, r in enumerate(results):
        if not r[0] and len(out.setdefault(prepared.kinds[i], [])) < count:
            prompt = prepared.encoder.decode([t for t in prepared.prompts[i] if t > 4])
            out[prepared.kinds[i]].append({"prompt": prompt[-160:], "expected": prepared.encoder.decode(prepared.replies[i]), "reply": r[3]})
    return out


def stories(model, prepared, count=4):
    """Greedy continuations that show how plain text reads."""
    tokens = evaluate.Tokens()
    asks = ["Tell me a story about a dog.", "Tell me a short story.", "Hello!", "What is the capital of France?"][:count]
    items = [("text", talk.Document([], [], [[(ask, "", None)]])) for ask in asks]
    probe = copy.copy(prepared)
    probe.prompts, probe.replies = zip(*(tokens.prompt(d) for _, d in items))
    probe.first = [0] * len(items)
    return dict(zip(asks, evaluate.generate(model, probe, torch.zeros(1, 81, 256, device=prepared.device), list(range(len(items))), 160)))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--questions", type=int, default=5000)
    p.add_argument("--calibration-rows", type=int, default=64)
    o = p.parse_args()
    os.makedirs(o.out, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = export.load_weights(model_file.Tiny(), export.read_safetensors(os.path.join(o.model, "model.safetensors"))).to(device).eval()
    model.requires_grad_(False)
    items = evaluate.make_items(o.questions, EVAL_SEED)
    prepared = evaluate.Prepared(items, device, EVAL_SEED)
    contact_sheet(os.path.join(o.out, "sheet.png"), prepared)
    say(len(items), "questions ready,", len(prepared.pixels), "pictures")

    result = {"questions": len(items), "seed": EVAL_SEED, "tables": {}}
    keep = lambda: export.dump(os.path.join(o.out, "evaluation.json"), result)
    scored = evaluate.score(model, prepared)
    result["tables"]["fp16"] = evaluate.table(prepared, scored)
    result["wrong"] = wrong_examples(prepared, scored)
    result["stories"] = stories(model, prepared)
    keep()
    say("fp16", json.dumps({k: v["accuracy"] for k, v in result["tables"]["fp16"].items()}))

    fixture = os.path.join(o.out, "fixture")
    fixture_items = evaluate.make_items(500 if o.questions >= 1000 else 50, FIXTURE_SEED)
    evaluate.write_fixture(fixture, fixture_items, FIXTURE_SEED, device)
    archive = os.path.join(o.out, "fixture.tar.gz")
    subprocess.run(["tar", "czf", archive + ".part", "-C", fixture, "."], check=True)
    os.replace(archive + ".part", archive)
    pixels = evaluate.load_fixture_pixels(fixture, fixture_items)
    small = evaluate.Prepared(fixture_items, device, FIXTURE_SEED, pixels=pixels)
    result["fixture"] = {"fp16": evaluate.table(small, evaluate.score(model, small))}
    keep()
    say("fixture", result["fixture"]["fp16"]["all"])

    ids = awq_reference.text_rows(o.calibration_rows)
    renderer = render.Renderer(device)
    pictures = awq_reference.picture_calibration(model, o.calibration_rows, 777, renderer)
    forms = {"rtn": None, "awq_text": awq_reference.text_calibration(model, ids), "awq_pictures": pictures, "awq_pictures_no_clip": pictures}
    best, reports = None, {}
    for name, calibration in forms.items():
        twin, kept, reports[name] = quantised(model, calibration, clip=not name.endswith("no_clip"))
        result["tables"][name] = evaluate.table(prepared, evaluate.score(twin, prepared))
        result["fixture"][name] = evaluate.table(small, evaluate.score(twin, small))
        everything = result["tables"][name]["all"]
        say(name, everything, result["fixture"][name]["all"])
        if name != "rtn" and (best is None or everything["logprob_per_reply"] > best[0]):
            best = (everything["logprob_per_reply"], name, twin, kept)
        keep()
    result["shipped"] = best[1]
    keep()
    export.dump(os.path.join(o.out, "awq-report.json"), {k: v for k, v in reports.items() if v})
    folder = os.path.join(o.out, "awq")
    awq_reference.write_folder(folder, best[2], best[3])
    shutil.move(os.path.join(folder, "model.safetensors"), os.path.join(o.out, "awq.safetensors"))
    shutil.rmtree(folder)
    export.write_safetensors(os.path.join(o.out, "calibration.safetensors"), {"ids": ids.int()})
    if os.path.abspath(o.model) != os.path.abspath(o.out):
        shutil.copyfile(os.path.join(o.model, "model.safetensors"), os.path.join(o.out, "model.safetensors"))
    shutil.rmtree(fixture)
    say("done")


if __name__ == "__main__":
    main()
