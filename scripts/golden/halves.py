"""How far transformers itself is from its float32 logits when it computes the vision-language fixtures in 16 bits.

    python3 halves.py FIXTURES

FIXTURES holds checkpoints/ and goldens/ (test/fixtures). Prints, for every family, type and prompt, ‖Δ‖/‖ref‖ over all
logits: the yardstick for the engine's own figures, which `hearth-gpu-model-test` prints in the same form.
"""
import os
import sys

import torch
import transformers
from safetensors.torch import load_file

FIXTURES = sys.argv[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLASSES = {"llava-siglip": transformers.LlavaForConditionalGeneration,
           "llava-clip": transformers.LlavaForConditionalGeneration,
           "llava-clip-new": transformers.LlavaForConditionalGeneration,
           "qwen2.5-vl": transformers.Qwen2_5_VLForConditionalGeneration,
           "qwen3-vl": transformers.Qwen3VLForConditionalGeneration}
IMAGES = {"none": [], "one": [0], "several": [1, 0, 2]}


def inputs(golden, name, dtype, ids):
    images = IMAGES[name]
    if not images:
        return {}
    if "pixel_values" in golden:
        return {"pixel_values": golden["pixel_values"][images].to(DEVICE, dtype)}
    return {"pixel_values": torch.cat([golden[f"pixel_values{i}"] for i in images]).to(DEVICE, dtype),
            "image_grid_thw": torch.stack([golden[f"grid{i}"] for i in images]).long().to(DEVICE),
            "mm_token_type_ids": (ids == 150).int()}


def main():
    for name, cls in CLASSES.items():
        golden = load_file(f"{FIXTURES}/goldens/{name}.safetensors")
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            try:
                model = cls.from_pretrained(f"{FIXTURES}/checkpoints/{name}", dtype=dtype, attn_implementation="eager").to(DEVICE).eval()
            except Exception as error:  # old prefixes, for instance, are not every release's
                print(name, dtype, "not loaded:", str(error)[:200])
                continue
            for case in IMAGES:
                ids = golden[f"{case}.ids"].long()[None].to(DEVICE)
                with torch.no_grad():
                    logits = model(input_ids=ids, use_cache=False, **inputs(golden, case, dtype, ids)).logits[0].float().cpu()
                reference = golden[f"{case}.logits"]
                print(f"transformers {name} {str(dtype)[6:]} {case}: {((logits - reference).norm() / reference.norm()).item():.3e}")


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
