"""Tiny random checkpoints of every architecture and what Hugging Face transformers computes with them.

    python3 capture.py OUT IMAGES [CASE ...]

writes OUT/checkpoints/<name>/ and OUT/goldens/<name>.safetensors. Everything runs in float32 on the CPU from fixed
seeds; weights are rounded to the dtype they are stored in before anything is computed, so a reader that is exact gets
the same numbers. Each case stands alone: one that fails is printed and the others are still written.
"""
import inspect
import json
import os
import sys
import time
import traceback
import zlib

import numpy as np
import torch
import transformers
import transformers.image_utils
from PIL import Image
from safetensors.torch import save_file

OUT, IMAGES = sys.argv[1], sys.argv[2]
LOG = []
TOKENS, GREEDY_PROMPT, GREEDY_NEW = 64, 24, 16


def log(*parts):
    line = " ".join(str(p) for p in parts)
    LOG.append(line)
    print(line)


def folder(name):
    path = f"{OUT}/checkpoints/{name}"
    os.makedirs(path, exist_ok=True)
    return path


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def write_golden(name, tensors, **metadata):
    os.makedirs(f"{OUT}/goldens", exist_ok=True)
    tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    save_file(tensors, f"{OUT}/goldens/{name}.safetensors", {k: str(v) for k, v in metadata.items()})


# ---- Models -------------------------------------------------------------------------------------------------------


def randomize(model, seed, dtype, gemma=False):
    """Weights large enough that attention is peaked, norms and biases matter, and an error anywhere shows."""
    generator = torch.Generator().manual_seed(seed)
    tied = set()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.data_ptr() in tied:
                continue
            tied.add(p.data_ptr())
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name.lower() or "ln_q" in name:
                value = 0.2 * noise + (0.0 if gemma or name.endswith("bias") else 1.0)
            elif p.dim() == 1:
                value = 0.2 * noise
            elif "embed_tokens" in name:
                value = noise
            elif "pos_embed" in name or "position_embedding" in name:
                value = 0.5 * noise
            else:
                fan_in = p[0].numel()
                gain = 1.8 if any(k in name for k in ("q_proj", "k_proj", ".qkv.")) else 1.0
                value = gain * noise / fan_in**0.5
            p.copy_(value.to(dtype).to(torch.float32))
    return model.eval()


def build(cls, config, seed, dtype=torch.bfloat16, gemma=False):
    for c in [config] + [getattr(config, k, None) for k in ("text_config", "vision_config")]:
        if c is not None:
            c._attn_implementation = "eager"
    torch.manual_seed(seed)
    return randomize(cls(config).float(), seed, dtype, gemma)


def save_model(model, name, dtype=torch.bfloat16, rename=None, **options):
    """The checkpoint as save_pretrained lays it out; `rename` rewrites tensor names (older layouts)."""
    path = folder(name)
    configs = [model.config] + [getattr(model.config, k, None) for k in ("text_config", "vision_config")]
    for c in configs:
        if c is not None:
            c.dtype = dtype
    state = {k: v.to(dtype) for k, v in model.state_dict().items()}
    model.save_pretrained(path, state_dict=state, **options)
    if rename:
        from safetensors.torch import load_file

        tensors = load_file(f"{path}/model.safetensors")
        save_file({rename(k): v for k, v in tensors.items()}, f"{path}/model.safetensors", {"format": "pt"})
    if not os.path.exists(f"{path}/generation_config.json"):
        write_json(f"{path}/generation_config.json", {"eos_token_id": [2, 5], "bos_token_id": 1})
    for file in sorted(os.listdir(path)):
        if file.endswith(".safetensors"):
            from safetensors import safe_open

            with safe_open(f"{path}/{file}", "pt") as f:
                log(name, file, os.path.getsize(f"{path}/{file}"), len(list(f.keys())), list(f.keys())[:6])


def greedy(logits_of, ids, below=None):
    """Token by token with the whole sequence each time: no cache to be wrong. Returns tokens and the least lead.
    Tokens from `below` on (placeholders of images) are never chosen."""
    ids, tokens, least = list(ids), [], float("inf")
    for _ in range(GREEDY_NEW):
        row = logits_of(torch.tensor([ids]))[0, -1][:below]
        best = torch.topk(row, 2)
        least = min(least, float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
        ids.append(tokens[-1])
    return tokens, least


def text_case(name, cls, config, seed, dtype=torch.bfloat16, gemma=False, change=None, **save_options):
    model = build(cls, config, seed, dtype, gemma)
    if change:
        with torch.no_grad():
            change(model)
            for p in model.parameters():
                p.copy_(p.to(dtype).to(torch.float32))
    generator = torch.Generator().manual_seed(seed + 1)
    ids = torch.randint(3, config.vocab_size, (TOKENS,), generator=generator)
    with torch.no_grad():
        logits = model(ids[None], use_cache=False).logits[0].float()
        tokens, least = greedy(lambda t: model(t, use_cache=False).logits, ids[:GREEDY_PROMPT].tolist())
    save_model(model, name, dtype, **save_options)
    write_golden(name, {"ids": ids.int(), "logits": logits, "greedy": torch.tensor(tokens, dtype=torch.int32)},
                 greedy_prompt=GREEDY_PROMPT, greedy_least_lead=least)
    log(name, "logits", tuple(logits.shape), "std", float(logits.std()), "least lead", least)


def rope(theta=10000.0, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


LLAMA = dict(vocab_size=288, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
             pad_token_id=0, tie_word_embeddings=False)


def llama(**changes):
    return transformers.LlamaConfig(**{**LLAMA, "rope_parameters": rope(), **changes})


def plant_outliers(model):
    """A few residual channels many times larger than the rest, as trained models have and random ones lack."""
    for channel, factor in ((5, 40.0), (37, -25.0)):
        model.model.embed_tokens.weight[:, channel] *= factor
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[channel] *= factor / 2
            layer.input_layernorm.weight[channel] *= 0.25
    model.model.layers[1].post_attention_layernorm.weight[11] *= 20


def text_cases():
    L = transformers.LlamaForCausalLM
    yield "llama-mha", lambda: text_case("llama-mha", L, llama(num_key_value_heads=4), 11)
    yield "llama-gqa-tied", lambda: text_case("llama-gqa-tied", L, llama(tie_word_embeddings=True), 12)
    yield "llama-f32", lambda: text_case("llama-f32", L, llama(), 13, torch.float32)
    yield "llama-f16", lambda: text_case("llama-f16", L, llama(head_dim=32), 14, torch.float16)
    yield "llama-sharded", lambda: text_case("llama-sharded", L, llama(), 15, max_shard_size="120KB")
    yield "llama3-rope", lambda: text_case("llama3-rope", L, llama(rope_parameters={
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}), 16)
    yield "llama-linear-rope", lambda: text_case("llama-linear-rope", L, llama(rope_parameters={
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}), 17)
    yield "llama-bias", lambda: text_case("llama-bias", L, llama(attention_bias=True, mlp_bias=True), 18)
    yield "llama-outlier", lambda: text_case("llama-outlier", L, llama(intermediate_size=256, hidden_size=128), 19,
                                             change=plant_outliers)
    yield "mistral-window", lambda: text_case(
        "mistral-window", transformers.MistralForCausalLM, transformers.MistralConfig(
            **LLAMA, head_dim=16, sliding_window=20, rope_parameters=rope()), 21)
    yield "qwen2", lambda: text_case("qwen2", transformers.Qwen2ForCausalLM, transformers.Qwen2Config(
        **{**LLAMA, "tie_word_embeddings": True}, rope_parameters=rope(1e6)), 22)
    yield "qwen3", lambda: text_case("qwen3", transformers.Qwen3ForCausalLM, transformers.Qwen3Config(
        **{**LLAMA, "num_hidden_layers": 3}, head_dim=32, rope_parameters=rope(1e6)), 23)
    yield "gemma3", lambda: text_case("gemma3", transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig(
        **{**LLAMA, "num_hidden_layers": 3, "tie_word_embeddings": True}, head_dim=32, query_pre_attn_scalar=24,
        sliding_window=20, layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        rope_parameters={"sliding_attention": rope(10000.0),
                         "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0}}), 24,
        gemma=True)


# ---- Images -------------------------------------------------------------------------------------------------------


def processor(name, **options):
    """The processor that resizes with Pillow. Newer releases name it <Name>Pil; older ones have it under <Name>."""
    module = __import__("importlib").import_module
    for attribute in (name + "Pil", name):
        cls = getattr(transformers, attribute, None)
        if cls is None and attribute.endswith("Pil"):
            family = {"CLIPImageProcessorPil": "clip", "SiglipImageProcessorPil": "siglip",
                      "Qwen2VLImageProcessorPil": "qwen2_vl", "LlavaImageProcessorPil": "llava"}[attribute]
            try:
                cls = getattr(module(f"transformers.models.{family}.image_processing_pil_{family}"), attribute)
            except Exception:
                continue
        if cls is not None:
            return cls(**options)
    raise RuntimeError(f"no {name}")


PHOTOS = [  # file, crop as fractions of the photo, width to scale to (0: as it is), rounded to odd sizes on purpose
    ("pillow-flower.jpg", (0, 0, 1, 1), 0), ("pillow-flower.jpg", (0.2, 0.1, 0.7, 0.9), 143),
    ("pillow-hopper.jpg", (0, 0, 1, 1), 0), ("pillow-hopper.jpg", (0.1, 0.2, 0.9, 0.6), 97),
    ("pillow-pil_sample_rgb.jpg", (0, 0, 1, 1), 0), ("imagers-progressive-3.jpg", (0, 0, 1, 1), 401),
    ("imagers-progressive-3.jpg", (0.3, 0.2, 0.6, 0.9), 120), ("imagers-exif-portrait_2.jpg", (0, 0, 1, 1), 0),
    ("ortx-standard_s.jpg", (0, 0, 1, 1), 351), ("ortx-standard_s.jpg", (0.1, 0.4, 0.9, 0.6), 211),
    ("skimage-chelsea.png", (0, 0, 1, 1), 0), ("skimage-chelsea.png", (0.2, 0.2, 0.6, 0.9), 131),
    ("skimage-clock_motion.png", (0, 0, 1, 1), 163), ("skimage-coins.png", (0, 0, 1, 1), 173),
    ("skimage-camera.png", (0, 0, 1, 1), 155), ("exif-Landscape_1.jpg", (0, 0, 1, 1), 191),
    ("exif-Landscape_1.jpg", (0.4, 0.3, 0.5, 0.9), 60), ("exif-Portrait_6.jpg", (0, 0, 1, 1), 180),
    ("exif-Portrait_6.jpg", (0, 0.45, 1, 0.55), 257), ("vila-demo_img_1.png", (0, 0, 0.6, 1), 221),
]


def photos():
    """Twenty photographs as RGB8, of many sizes and shapes."""
    out = []
    for file, (x0, y0, x1, y1), width in PHOTOS:
        image = Image.open(f"{IMAGES}/{file}").convert("RGB")
        w, h = image.size
        image = image.crop((int(x0 * w), int(y0 * h), int(x1 * w), int(y1 * h)))
        if width:
            image = image.resize((width, max(1, round(image.height * width / image.width))), Image.BOX)
        out.append(image)
    return out


def as_u8(pixel_values, mean, std):
    """Normalised values back to the bytes they came from; asserts that nothing was lost on the way."""
    mean, std = (np.asarray(v, np.float64).reshape(-1, 1, 1) for v in (mean, std))
    exact = (pixel_values.astype(np.float64) * std + mean) * 255
    rounded = np.rint(exact)
    assert np.abs(exact - rounded).max() < 1e-2, np.abs(exact - rounded).max()
    return rounded.astype(np.uint8)


def summary(chw):
    """[height, width, crc32 of the HWC bytes less 2^31]: equal only when every byte is."""
    hwc = np.ascontiguousarray(chw.transpose(1, 2, 0))
    return torch.tensor([hwc.shape[0], hwc.shape[1], zlib.crc32(hwc.tobytes()) - (1 << 31)], dtype=torch.int32)


def preprocessing():
    images = photos()
    tensors = {f"photo{i}": torch.from_numpy(np.asarray(im).copy()) for i, im in enumerate(images)}
    clip_mean, clip_std = transformers.image_utils.OPENAI_CLIP_MEAN, transformers.image_utils.OPENAI_CLIP_STD
    half = [0.5, 0.5, 0.5]
    clip = processor("CLIPImageProcessor", size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    siglip = processor("SiglipImageProcessor", size={"height": 384, "width": 384})
    qwen = processor("Qwen2VLImageProcessor", min_pixels=56 * 56, max_pixels=28 * 28 * 300)
    log("processors", type(clip), type(siglip), type(qwen))

    def pad_square(image):
        side = max(image.size)
        canvas = Image.new("RGB", (side, side), tuple(int(m * 255) for m in clip_mean))
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return canvas

    def add(key, values, mean, std):
        tensors[key] = summary(as_u8(values, mean, std))
        tensors[key + ".values"] = torch.from_numpy(values.transpose(1, 2, 0).reshape(-1)[::679].astype(np.float32))

    def pixels(p, image):
        return np.asarray(p(images=[image], return_tensors="np")["pixel_values"][0])

    worst = 0
    for i, image in enumerate(images):
        add(f"clip{i}", pixels(clip, image), clip_mean, clip_std)
        add(f"pad{i}", pixels(clip, pad_square(image)), clip_mean, clip_std)
        add(f"siglip{i}", pixels(siglip, image), half, half)
        direct = np.asarray(image.resize((384, 384)))  # VILA's "resize": Pillow's default filter
        mine = as_u8(pixels(siglip, image), half, half).transpose(1, 2, 0)
        worst = max(worst, int(np.abs(direct.astype(int) - mine.astype(int)).max()))
        out = qwen(images=[image], return_tensors="np")
        t, h, w = out["image_grid_thw"][0]
        values = np.asarray(out["pixel_values"]).reshape(t, h // 2, w // 2, 2, 2, 3, 2, 14, 14)
        first = values[:, :, :, :, :, :, 0].transpose(0, 5, 1, 3, 6, 2, 4, 7).reshape(3, h * 14, w * 14)
        assert (values[:, :, :, :, :, :, 0] == values[:, :, :, :, :, :, 1]).all()
        add(f"qwen{i}", first, clip_mean, clip_std)
    log("SigLIP's processor against Pillow's default resize: worst difference", worst)
    write_golden("preprocess", tensors, pillow=Image.__version__, transformers=transformers.__version__)


def more_preprocessing():
    """The same twenty photographs (their pixels are in preprocess.safetensors) through the processors of Qwen3-VL, VILA
    (its own code: Pillow's default filter to the tower's size) and LLaVA's own padding processor."""
    images = photos()
    half = [0.5, 0.5, 0.5]
    clip_mean, clip_std = transformers.image_utils.OPENAI_CLIP_MEAN, transformers.image_utils.OPENAI_CLIP_STD
    qwen3 = processor("Qwen2VLImageProcessor", patch_size=16, min_pixels=32 * 32 * 4, max_pixels=32 * 32 * 300, image_mean=half, image_std=half)
    llava = processor("LlavaImageProcessor", size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, do_pad=True)
    log("processors", type(qwen3), type(llava))
    tensors = {}

    def add(key, values, mean, std):
        tensors[key] = summary(as_u8(values, mean, std))
        tensors[key + ".values"] = torch.from_numpy(values.transpose(1, 2, 0).reshape(-1)[::679].astype(np.float32))

    for i, image in enumerate(images):
        out = qwen3(images=[image], return_tensors="np")
        t, h, w = out["image_grid_thw"][0]
        values = np.asarray(out["pixel_values"]).reshape(t, h // 2, w // 2, 2, 2, 3, 2, 16, 16)
        add(f"qwen3{i}", values[:, :, :, :, :, :, 0].transpose(0, 5, 1, 3, 6, 2, 4, 7).reshape(3, h * 16, w * 16), half, half)
        vila = np.asarray(image.resize((384, 384)), np.float32).transpose(2, 0, 1) / np.float32(255)
        add(f"vila{i}", (vila - np.float32(0.5)) / np.float32(0.5), half, half)
        add(f"llava{i}", np.asarray(llava(images=[image], return_tensors="np")["pixel_values"][0]), clip_mean, clip_std)
    write_golden("preprocess-more", tensors, pillow=Image.__version__, transformers=transformers.__version__)


def resampling():
    """Pillow's filters on noise: enlarging, reducing, one pixel wide, one axis only."""
    rng = np.random.default_rng(5)
    cases = [(13, 7, 56, 56), (64, 48, 17, 23), (1, 1, 8, 5), (1, 200, 16, 16), (200, 1, 9, 31), (31, 33, 31, 20),
             (40, 40, 20, 40), (97, 61, 336, 211), (255, 3, 3, 255), (128, 96, 10, 7)]
    tensors = {}
    for i, (w, h, to_w, to_h) in enumerate(cases):
        noise = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        tensors[f"in{i}"] = torch.from_numpy(noise)
        for name in ("BILINEAR", "BICUBIC", "LANCZOS"):
            if to_w * to_h > 60000 and name != "BICUBIC":  # the large one once, to keep the file small
                continue
            out = Image.fromarray(noise).resize((to_w, to_h), getattr(Image, name))
            tensors[f"{name.lower()}{i}"] = torch.from_numpy(np.asarray(out).copy())
    write_golden("resample", tensors, pillow=Image.__version__)


def smart_resize_sizes():
    """Sizes Qwen's processor chooses, over many shapes and both factors."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    rows = []
    rng = np.random.default_rng(9)
    for factor, low, high in ((28, 56 * 56, 28 * 28 * 1280), (28, 28 * 28 * 4, 28 * 28 * 16), (32, 32 * 32 * 4, 32 * 32 * 256)):
        for _ in range(60):
            h, w = (int(v) for v in np.exp(rng.uniform(1.5, 8.2, 2)))
            try:
                rows.append([factor, low, high, h, w, *smart_resize(h, w, factor, low, high)])
            except ValueError:
                rows.append([factor, low, high, h, w, -1, -1])
    write_golden("smart-resize", {"rows": torch.tensor(rows, dtype=torch.int32)})


# ---- Vision-language models ----------------------------------------------------------------------------------------


def small_images(seed):
    """Smooth random pictures of odd sizes: the tiny models' own processors resize them."""
    rng = np.random.default_rng(seed)
    out = []
    for w, h in ((97, 61), (56, 56), (31, 120)):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
        out.append(coarse.resize((w, h), Image.BICUBIC))
    return out


class Taps:
    """What passes through named modules during a forward."""

    def __init__(self):
        self.seen = {}

    def output(self, module, key):
        def hook(_, __, out):
            self.seen[key] = out[0] if isinstance(out, (tuple, list)) else out
        module.register_forward_hook(hook)

    def inputs(self, module, key):
        def hook(_, args, kwargs):
            self.seen[key] = {k: v for k, v in kwargs.items()} | ({"args": args} if args else {})
        module.register_forward_pre_hook(hook, with_kwargs=True)


def module_named(model, *endings):
    for ending in endings:
        for name, module in model.named_modules():
            if name.endswith(ending):
                return module
    raise RuntimeError(f"no module named {endings}: {[n for n, _ in model.named_modules()][:60]}")


def prompts(image_token, rows, wrap=lambda tokens: tokens):
    """Ids for no image, one, and several interleaved with text. `rows` are the images' token counts."""
    rng = np.random.default_rng(77)
    text = lambda n: [int(v) for v in rng.integers(10, 120, n)]
    image = lambda i: wrap([image_token] * rows[i])
    return {"none": (text(12), []), "one": (text(5) + image(0) + text(6), [0]),
            "several": (image(1) + text(3) + image(0) + image(2) + text(7), [1, 0, 2])}


def vl_logits(model, taps, cases, feed, placeholder, tensors):
    """Logits and greedy tokens of every prompt; `feed(ids, images)` gives the forward's further arguments."""
    for name, (ids, images) in cases.items():
        call = lambda t: model(input_ids=t, use_cache=False, **feed(t, images)).logits
        with torch.no_grad():
            tensors[name + ".logits"] = call(torch.tensor([ids]))[0].float()
            if images:
                mask = torch.tensor(ids) == placeholder
                embeds = taps.seen["language"].get("inputs_embeds")
                tensors[name + ".projected"] = embeds[0][mask].float()
            positions = taps.seen["language"].get("position_ids")
            if positions is not None and positions.dim() == 3:
                tensors[name + ".positions"] = positions[-3:, 0].int()
            tokens, least = greedy(call, ids, below=150)
        tensors[name + ".ids"] = torch.tensor(ids, dtype=torch.int32)
        tensors[name + ".greedy"] = torch.tensor(tokens, dtype=torch.int32)
        log("  ", name, len(ids), "least lead", least)


TEXT = {**LLAMA, "vocab_size": 160, "rope_parameters": rope()}
PREFIXES = (("model.language_model.", "language_model.model."), ("model.vision_tower.", "vision_tower."),
            ("model.multi_modal_projector.", "multi_modal_projector."), ("lm_head.", "language_model.lm_head."))


def old_prefix(name):
    for new, old in PREFIXES:
        if name.startswith(new):
            return old + name[len(new):]
    return name


def new_prefix(name):
    for new, old in PREFIXES:
        if name.startswith(old):
            return new + name[len(old):]
    return name


def llava_case(name, vision, image_processor, strategy, layer, seed, rename):
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), image_token_id=150, image_token_index=150,
        projector_hidden_act="gelu", vision_feature_select_strategy=strategy, vision_feature_layer=layer)
    model = build(transformers.LlavaForConditionalGeneration, config, seed)
    taps = Taps()
    taps.output(module_named(model, f"encoder.layers.{vision.num_hidden_layers + layer}"), "features")
    taps.inputs(module_named(model, "language_model"), "language")
    pictures = small_images(seed)
    values = image_processor(images=pictures, return_tensors="pt")["pixel_values"].float()
    tokens = (vision.image_size // vision.patch_size) ** 2
    tensors = {f"image{i}": torch.from_numpy(np.asarray(p).copy()) for i, p in enumerate(pictures)}
    tensors["pixel_values"] = values

    def feed(_, images):
        return {"pixel_values": values[images]} if images else {}

    vl_logits(model, taps, prompts(150, [tokens] * 3), feed, 150, tensors)
    with torch.no_grad():
        model(input_ids=torch.tensor([[150] * tokens * 3]), pixel_values=values, use_cache=False)
    tensors["features"] = taps.seen["features"].float()
    save_model(model, name, rename=rename)
    image_processor.save_pretrained(folder(name))
    write_golden(name, tensors, image_token=150, greedy_below=150)


CLIP_TINY = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, image_size=56,
                 patch_size=14, projection_dim=32)
SIGLIP_TINY = dict(hidden_size=48, intermediate_size=112, num_hidden_layers=3, num_attention_heads=3, image_size=56,
                   patch_size=14)


def clip_processor():
    return processor("CLIPImageProcessor", size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})


def siglip_processor(size=56):
    return processor("SiglipImageProcessor", size={"height": size, "width": size})


def vila_downsample(x):
    """formats.md: pad odd grids with zeros, 2x2 to depth, cells in column-major order."""
    side = int(x.shape[1] ** 0.5)
    grid = x.reshape(x.shape[0], side, side, -1)
    if side % 2:
        grid = torch.nn.functional.pad(grid, (0, 0, 0, 1, 0, 1))
    n, h, w, c = grid.shape
    cells = grid.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 3, 1, 2, 4, 5)
    return cells.reshape(n, (h // 2) * (w // 2), 4 * c)


def vila_case(name, seed):
    """VILA-1.5's three folders, composed of transformers' SigLIP and Llama and the projector of formats.md."""
    vision = transformers.SiglipVisionConfig(**{**SIGLIP_TINY, "image_size": 70})
    tower = build(transformers.SiglipVisionModel, vision, seed)
    text = transformers.LlamaConfig(**TEXT)
    llm = build(transformers.LlamaForCausalLM, text, seed + 1)
    wide = 4 * vision.hidden_size
    layers = torch.nn.Sequential(torch.nn.Identity(), torch.nn.LayerNorm(wide), torch.nn.Linear(wide, 64),
                                 torch.nn.GELU(), torch.nn.Linear(64, 64))
    generator = torch.Generator().manual_seed(seed + 2)
    with torch.no_grad():
        for key, p in layers.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            value = noise / p.shape[-1] ** 0.5 if p.dim() == 2 else 0.2 * noise + (key == "1.weight")
            p.copy_(value.bfloat16().float())
    pictures = small_images(seed)
    image_processor = siglip_processor(70)
    values = image_processor(images=[p.resize((70, 70)) for p in pictures], return_tensors="pt")["pixel_values"].float()
    taps = Taps()
    taps.output(module_named(tower, "encoder.layers.1"), "features")
    tensors = {f"image{i}": torch.from_numpy(np.asarray(p).copy()) for i, p in enumerate(pictures)}
    with torch.no_grad():
        tower(values)
        tensors["pixel_values"], tensors["features"] = values, taps.seen["features"].float()
        projected = layers(vila_downsample(tensors["features"]))
    for case, (ids, images) in prompts(-200, [9] * 3).items():
        def call(t):
            t = t[0]
            x = llm.get_input_embeddings()(t.clamp(min=0))
            if images:
                x = x.clone()
                x[t == -200] = projected[images].reshape(-1, 64)
            return llm(inputs_embeds=x[None], use_cache=False).logits
        with torch.no_grad():
            tensors[case + ".logits"] = call(torch.tensor([ids]))[0].float()
            tensors[case + ".greedy"] = torch.tensor(greedy(call, ids, below=150)[0], dtype=torch.int32)
        tensors[case + ".ids"] = torch.tensor(ids, dtype=torch.int32)
        if images:
            tensors[case + ".projected"] = projected[images].reshape(-1, 64)
    save_model(tower, name + "/vision_tower")
    image_processor.save_pretrained(folder(name + "/vision_tower"))
    save_model(llm, name + "/llm")
    os.makedirs(folder(name + "/mm_projector"), exist_ok=True)
    save_file({"layers." + k: v.to(torch.bfloat16).contiguous() for k, v in layers.state_dict().items()},
              folder(name + "/mm_projector") + "/model.safetensors", {"format": "pt"})
    write_json(folder(name + "/mm_projector") + "/config.json", {
        "model_type": "v2l_projector", "mm_projector_type": "mlp_downsample", "architectures": ["MultimodalProjector"]})
    sub = lambda part: json.load(open(f"{OUT}/checkpoints/{name}/{part}/config.json"))
    write_json(folder(name) + "/config.json", {
        "architectures": ["LlavaLlamaModel"], "model_type": "llava_llama", "llm_cfg": sub("llm"),
        "vision_tower_cfg": sub("vision_tower"), "mm_projector_cfg": sub("mm_projector"), "hidden_size": 64,
        "mm_hidden_size": vision.hidden_size, "image_aspect_ratio": "resize", "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "cls_patch", "mm_use_im_start_end": False, "mm_use_im_patch_token": False})
    write_golden(name, tensors, image_token=-200, greedy_below=150)


def qwen_case(name, cls, config, image_processor, seed, layers_key):
    model = build(cls, config, seed)
    taps = Taps()
    taps.inputs(module_named(model, "language_model"), "language")
    visual = module_named(model, "visual")
    taps.output(module_named(model, layers_key), "features")
    pictures = small_images(seed)
    parts = [image_processor(images=[p], return_tensors="pt") for p in pictures]
    grids = [p["image_grid_thw"] for p in parts]
    rows = [int(g.prod()) // 4 for g in grids]
    image, start, end = config.image_token_id, config.vision_start_token_id, config.vision_end_token_id
    tensors = {f"image{i}": torch.from_numpy(np.asarray(p).copy()) for i, p in enumerate(pictures)}
    for i, part in enumerate(parts):
        tensors[f"pixel_values{i}"], tensors[f"grid{i}"] = part["pixel_values"].float(), grids[i][0].int()
    takes_types = "mm_token_type_ids" in inspect.signature(model.model.forward).parameters

    def feed(ids, images):
        if not images:
            return {}
        more = {"pixel_values": torch.cat([parts[i]["pixel_values"].float() for i in images]),
                "image_grid_thw": torch.cat([grids[i] for i in images])}
        if takes_types:
            more["mm_token_type_ids"] = (ids == image).int()
        return more

    cases = prompts(image, rows, lambda tokens: [start] + tokens + [end])
    vl_logits(model, taps, cases, feed, image, tensors)
    for case, (ids, images) in cases.items():
        for i in images if len(images) == 1 else []:
            with torch.no_grad():
                model(input_ids=torch.tensor([ids]), use_cache=False, **feed(torch.tensor([ids]), images))
            tensors[f"features{i}"] = taps.seen["features"].float()
            deep = taps.seen["language"].get("deepstack_visual_embeds")
            for k, d in enumerate(deep or []):
                tensors[f"deepstack{i}.{k}"] = d.float()
    save_model(model, name)
    image_processor.save_pretrained(folder(name))
    write_golden(name, tensors, image_token=image, greedy_below=150)


SPECIAL = dict(image_token_id=150, video_token_id=151, vision_start_token_id=152, vision_end_token_id=153)


def qwen25_vl():
    text = {**TEXT, "rope_parameters": rope(1e6, mrope_section=[2, 3, 3])}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, **SPECIAL, tie_word_embeddings=False,
        vision_config=dict(depth=3, hidden_size=64, intermediate_size=112, num_heads=4, in_channels=3, patch_size=14,
                           spatial_merge_size=2, temporal_patch_size=2, window_size=56, out_hidden_size=64,
                           fullatt_block_indexes=[1], hidden_act="silu", tokens_per_second=2))
    p = processor("Qwen2VLImageProcessor", min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 30)
    qwen_case("qwen2.5-vl", transformers.Qwen2_5_VLForConditionalGeneration, config, p, 51, "visual.blocks.2")


def qwen3_vl():
    text = {**TEXT, "head_dim": 32, "num_hidden_layers": 3,
            "rope_parameters": rope(5e6, mrope_section=[8, 4, 4], mrope_interleaved=True)}
    config = transformers.Qwen3VLConfig(
        text_config=text, **SPECIAL, tie_word_embeddings=False,
        vision_config=dict(depth=3, hidden_size=64, intermediate_size=112, num_heads=4, in_channels=3, patch_size=16,
                           spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=64, num_position_embeddings=36,
                           deepstack_visual_indexes=[0, 1], hidden_act="gelu_pytorch_tanh"))
    p = processor("Qwen2VLImageProcessor", patch_size=16, min_pixels=32 * 32 * 4, max_pixels=32 * 32 * 30,
                  image_mean=[0.5] * 3, image_std=[0.5] * 3)
    qwen_case("qwen3-vl", transformers.Qwen3VLForConditionalGeneration, config, p, 52, "visual.blocks.2")


def vision_cases():
    siglip = lambda **k: transformers.SiglipVisionConfig(**{**SIGLIP_TINY, **k})
    yield "llava-siglip", lambda: llava_case("llava-siglip", siglip(vision_use_head=False), siglip_processor(), "full", -1, 41, new_prefix)
    yield "llava-clip", lambda: llava_case("llava-clip", transformers.CLIPVisionConfig(**CLIP_TINY), clip_processor(), "default", -2, 42, old_prefix)
    yield "llava-clip-new", lambda: llava_case("llava-clip-new", transformers.CLIPVisionConfig(**CLIP_TINY), clip_processor(), "default", -2, 43, new_prefix)
    yield "vila", lambda: vila_case("vila", 44)
    yield "qwen2.5-vl", qwen25_vl
    yield "qwen3-vl", qwen3_vl


def main():
    torch.set_num_threads(min(8, os.cpu_count() or 1))
    log("torch", torch.__version__, "transformers", transformers.__version__, "pillow", Image.__version__)
    failed = []
    others = [("resample", resampling), ("smart-resize", smart_resize_sizes), ("preprocess", preprocessing),
              ("preprocess-more", more_preprocessing)]
    wanted = sys.argv[3:]
    for name, case in [*text_cases(), *others, *vision_cases()]:
        if wanted and name not in wanted:
            continue
        start = time.time()
        try:
            case()
            log("done", name, f"{time.time() - start:.1f} s")
        except Exception:
            failed.append(name)
            log("FAILED", name, traceback.format_exc())
    log("failed:", failed or "none")
    with open(f"{OUT}/capture.log", "w") as file:
        file.write("\n".join(LOG) + "\n")


main()
