#!/usr/bin/env python3
"""Writes test/fixtures/formats: one small linear in every format Hearth reads, by code that shares nothing with the
engine's. Standard library only. Run it from the repository's root; the output is the same every time.

The linear has 256 inputs and 32 outputs. Its codes, zero points and scales are drawn once (scales exact in FP16), so all
4-bit formats hold the same numbers, and expected-*.f32 holds (q - zero) * scale as little-endian float32 [out, in].
"""

import json
import pathlib
import pickle
import random
import struct
import sys
import types
import zipfile

IN, OUT = 256, 32
MODULE = "model.layers.0.mlp.down_proj"
ROOT = pathlib.Path("test/fixtures/formats")

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": IN,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 40,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
}


# ---- numbers ----

def half(value):
    """The float after rounding to FP16."""
    return struct.unpack("<e", struct.pack("<e", value))[0]


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def halves(values):
    return struct.pack(f"<{len(values)}e", *values)


def floats(values):
    return struct.pack(f"<{len(values)}f", *values)


def bfloats(values):
    """Round to nearest even, on the bits."""
    out = bytearray()
    for value in values:
        bits = struct.unpack("<I", struct.pack("<f", value))[0]
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        out += struct.pack("<H", bits & 0xFFFF)
    return bytes(out)


def words(values):
    return b"".join(struct.pack("<I", value & 0xFFFFFFFF) for value in values)


def flat(rows):
    return [value for row in rows for value in row]


class Linear:
    """Codes q[n][k], zeros z[n][g] and scales s[n][g] of one group size."""

    def __init__(self, group, symmetric=False, seed=1):
        rng = random.Random(seed * 1000 + group + symmetric)
        self.group, self.groups = group, IN // group
        self.q = [[rng.randrange(16) for _ in range(IN)] for _ in range(OUT)]
        self.z = [[8 if symmetric else rng.randrange(16) for _ in range(self.groups)] for _ in range(OUT)]
        self.s = [[half(rng.uniform(0.001, 0.02)) for _ in range(self.groups)] for _ in range(OUT)]

    def weights(self, group_of=None):
        return [[f32((self.q[n][k] - self.z[n][g]) * self.s[n][g])
                 for k in range(IN) for g in [group_of[k] if group_of else k // self.group]] for n in range(OUT)]

    def expected(self, name, group_of=None):
        (ROOT / f"expected-{name}.f32").write_bytes(floats(flat(self.weights(group_of))))


# ---- containers ----

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I16": 2, "I8": 1, "I64": 8}


def safetensors(path, tensors, metadata=None):
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        count = 1
        for size in shape:
            count *= size
        assert count * SIZES[dtype] == len(content), name
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def folder(name, tensors, quantization=None, config=None, extra=None):
    content = dict(config or CONFIG)
    if quantization:
        content["quantization_config"] = quantization
    safetensors(ROOT / name / "model.safetensors", tensors)
    (ROOT / name / "config.json").write_text(json.dumps(content, indent=1) + "\n")
    for file, value in (extra or {}).items():
        (ROOT / name / file).write_text(json.dumps(value, indent=1) + "\n")


# ---- AutoAWQ gemm: packed along the outputs, in the order 0 2 4 6 1 3 5 7 ----

def awq_word(values):
    word = 0
    for nibble, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
        word |= values[column] << (4 * nibble)
    return word


def awq_gemm(linear, module=MODULE):
    qweight = [awq_word([linear.q[8 * c + j][k] for j in range(8)]) for k in range(IN) for c in range(OUT // 8)]
    qzeros = [awq_word([linear.z[8 * c + j][g] for j in range(8)]) for g in range(linear.groups) for c in range(OUT // 8)]
    scales = [linear.s[n][g] for g in range(linear.groups) for n in range(OUT)]
    return {
        f"{module}.qweight": ("I32", [IN, OUT // 8], words(qweight)),
        f"{module}.qzeros": ("I32", [linear.groups, OUT // 8], words(qzeros)),
        f"{module}.scales": ("F16", [linear.groups, OUT], halves(scales)),
    }


def awq_config(group, version="gemm", **more):
    return {"quant_method": "awq", "zero_point": True, "group_size": group, "bits": 4, "version": version,
            "modules_to_not_convert": None, **more}


# ---- gemv_fast / llm-awq v2 ----

def gemv_fast(linear):
    """qweight as the writer's own permutation makes it: rows of 64 inputs for four outputs interleave as
    [input block of 32][nibble][byte], not by the closed form the engine uses."""
    grid = [[0] * IN for _ in range(OUT // 4)]
    for row in range(OUT // 4):
        for block in range(IN // 64):
            for lane in range(4):
                for part in range(2):
                    for byte in range(8):
                        value = 0
                        for nibble in range(4):
                            k = block * 64 + part * 32 + nibble * 8 + byte
                            value |= linear.q[row * 4 + lane][k] << (4 * nibble)
                        grid[row][block * 64 + lane * 16 + part * 8 + byte] = value
    qweight = struct.pack(f"<{OUT // 4 * IN}H", *flat(grid))
    unit = {128: 8, 64: 16, 32: 32}[linear.group]
    rows = -(-linear.groups // unit) * unit
    scales, zeros = [], []
    for g in range(rows):
        for n in range(OUT):
            scales.append(linear.s[n][g] if g < linear.groups else 0.0)
            zeros.append(half(-(linear.s[n][g] * linear.z[n][g])) if g < linear.groups else 0.0)
    return qweight, rows, halves(scales), halves(zeros)


# ---- GPTQ ----

def gptq(linear, offset, group_of=None):
    """Packed along the inputs in plain order. With act-order, group_of[k] is input k's group and the codes stay in
    natural order."""
    qweight = [sum(linear.q[n][8 * r + j] << (4 * j) for j in range(8)) for r in range(IN // 8) for n in range(OUT)]
    qzeros = [sum(((linear.z[8 * c + j][g] - offset) & 15) << (4 * j) for j in range(8))
              for g in range(linear.groups) for c in range(OUT // 8)]
    scales = [linear.s[n][g] for g in range(linear.groups) for n in range(OUT)]
    index = group_of or [k // linear.group for k in range(IN)]
    return {
        f"{MODULE}.qweight": ("I32", [IN // 8, OUT], words(qweight)),
        f"{MODULE}.qzeros": ("I32", [linear.groups, OUT // 8], words(qzeros)),
        f"{MODULE}.scales": ("F16", [linear.groups, OUT], halves(scales)),
        f"{MODULE}.g_idx": ("I32", [IN], words(index)),
    }


# ---- compressed-tensors ----

def compressed(linear, symmetric):
    packed = [sum(((linear.q[n][8 * c + j] - 8) + 8) << (4 * j) for j in range(8)) for n in range(OUT) for c in range(IN // 8)]
    tensors = {
        f"{MODULE}.weight_packed": ("I32", [OUT, IN // 8], words(packed)),
        f"{MODULE}.weight_scale": ("F16", [OUT, linear.groups], halves(flat(linear.s))),
        f"{MODULE}.weight_shape": ("I64", [2], struct.pack("<2q", OUT, IN)),
    }
    if not symmetric:
        zeros = [sum(linear.z[8 * c + j][g] << (4 * j) for j in range(8)) for c in range(OUT // 8) for g in range(linear.groups)]
        tensors[f"{MODULE}.weight_zero_point"] = ("I32", [OUT // 8, linear.groups], words(zeros))
    return tensors


def compressed_config(form, weights, activations=None):
    return {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations}}}


# ---- llm-awq v2: torch.save of a state_dict, by Python's own pickler with stand-ins for torch's classes ----

class Storage:
    def __init__(self, kind, key, content, element_size):
        self.kind, self.key, self.content, self.count = kind, key, content, len(content) // element_size


def fake_torch():
    """Modules whose names are all the pickler needs; nothing of torch is here."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ["HalfStorage", "FloatStorage", "ShortStorage", "IntStorage"]:
        cls = type(name, (), {})
        cls.__module__ = "torch"
        setattr(torch, name, cls)

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("only named, never called")
    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utils
    sys.modules["torch"], sys.modules["torch._utils"] = torch, utils
    return torch


class Tensor:
    def __init__(self, torch, storage, shape, offset=0):
        self.torch, self.storage, self.shape, self.offset = torch, storage, tuple(shape), offset

    def __reduce__(self):
        import collections
        strides, step = [], 1
        for size in reversed(self.shape):
            strides.insert(0, step)
            step *= size
        return (self.torch._utils._rebuild_tensor_v2,
                (self.storage, self.offset, self.shape, tuple(strides), False, collections.OrderedDict()))


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", value.kind, value.key, "cpu", value.count)
        return None


def torch_save(path, state, storages):
    import collections
    import io
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(collections.OrderedDict(state))
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        def add(name, content):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0)), content)
        add("data.pkl", buffer.getvalue())
        for storage in storages:
            add(f"data/{storage.key}", storage.content)
        add("version", b"3\n")


def llm_awq(path, linear):
    torch = fake_torch()
    qweight, rows, scales, zeros = gemv_fast(linear)
    storages = [Storage(torch.ShortStorage, "0", qweight, 2), Storage(torch.HalfStorage, "1", scales, 2),
                Storage(torch.HalfStorage, "2", zeros, 2), Storage(torch.HalfStorage, "3", halves([0.5] * 8 + [1.0] * 32), 2)]
    state = {
        f"{MODULE}.qweight": Tensor(torch, storages[0], [OUT // 4, IN]),
        f"{MODULE}.scales": Tensor(torch, storages[1], [rows, OUT]),
        f"{MODULE}.scaled_zeros": Tensor(torch, storages[2], [rows, OUT]),
        "model.norm.weight": Tensor(torch, storages[3], [32], offset=8),
    }
    torch_save(path, state, storages)


# ---- GGUF ----

def gguf_string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value):
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(gguf_string, value))
    kind, code = (6, "f") if isinstance(value[0], float) else (5, "i")
    return struct.pack("<IIQ", 9, kind, len(value)) + struct.pack(f"<{len(value)}{code}", *value)


def gguf(path, values, tensors):
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    for key, value in values.items():
        out += gguf_string(key) + gguf_value(value)
    data = b""
    for name, (kind, shape, content) in tensors.items():
        out += gguf_string(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", s) for s in reversed(shape))
        out += struct.pack("<IQ", kind, len(data))
        data += content + b"\0" * (-len(content) % 32)
    out += b"\0" * (-len(out) % 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out + data)


def q4_0(linear):
    out = b""
    for n in range(OUT):
        for b in range(IN // 32):
            codes = linear.q[n][b * 32:(b + 1) * 32]
            out += struct.pack("<e", linear.s[n][b]) + bytes(codes[j] | codes[j + 16] << 4 for j in range(16))
    return out


def q4_1(rng):
    """Returns bytes and weights of OUT x IN."""
    out, weights = b"", []
    for _ in range(OUT * IN // 32):
        d, m = half(rng.uniform(0.001, 0.02)), half(rng.uniform(-0.2, 0.0))
        codes = [rng.randrange(16) for _ in range(32)]
        out += struct.pack("<ee", d, m) + bytes(codes[j] | codes[j + 16] << 4 for j in range(16))
        weights += [f32(f32(d * q) + m) for q in codes]
    return out, weights


def q8_0(rng):
    out, weights = b"", []
    for _ in range(OUT * IN // 32):
        d = half(rng.uniform(0.0001, 0.002))
        codes = [rng.randrange(-127, 128) for _ in range(32)]
        out += struct.pack("<e32b", d, *codes)
        weights += [f32(d * q) for q in codes]
    return out, weights


def q4_k(rng):
    out, weights = b"", []
    for _ in range(OUT * IN // 256):
        d, dmin = half(rng.uniform(0.0001, 0.001)), half(rng.uniform(0.0001, 0.001))
        scales, mins = [rng.randrange(64) for _ in range(8)], [rng.randrange(64) for _ in range(8)]
        codes = [[rng.randrange(16) for _ in range(32)] for _ in range(8)]
        packed = bytearray(12)
        for i in range(4):
            packed[i] = scales[i] | (scales[i + 4] >> 4) << 6
            packed[i + 4] = mins[i] | (mins[i + 4] >> 4) << 6
            packed[i + 8] = (scales[i + 4] & 15) | (mins[i + 4] & 15) << 4
        out += struct.pack("<ee", d, dmin) + bytes(packed)
        for pair in range(4):
            out += bytes(codes[2 * pair][j] | codes[2 * pair + 1][j] << 4 for j in range(32))
        for i in range(8):
            weights += [f32(f32(f32(d * scales[i]) * q) - f32(dmin * mins[i])) for q in codes[i]]
    return out, weights


def q6_k(rng):
    out, weights = b"", []
    for _ in range(OUT * IN // 256):
        d = half(rng.uniform(0.00001, 0.0001))
        scales = [rng.randrange(-128, 128) for _ in range(16)]
        codes = [rng.randrange(64) for _ in range(256)]  # q + 32
        low, high = bytearray(128), bytearray(64)
        for i, code in enumerate(codes):
            part, inside = divmod(i, 128)
            run, j = divmod(inside, 32)
            low[part * 64 + (run % 2) * 32 + j] |= (code & 15) << (4 * (run // 2))
            high[part * 32 + j] |= (code >> 4) << (2 * run)
        out += bytes(low) + bytes(high) + struct.pack("<16be", *scales, d)
        weights += [f32(f32(d * scales[i // 16]) * (code - 32)) for i, code in enumerate(codes)]
    return out, weights


GGUF_VALUES = {
    "general.architecture": "llama", "general.name": "fixture", "llama.context_length": 64, "llama.embedding_length": 32,
    "llama.feed_forward_length": IN, "llama.block_count": 1, "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2, "llama.rope.dimension_count": 8, "llama.rope.freq_base": 500000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "\u2581a", "\u00e9"],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.5, -2.0], "tokenizer.ggml.token_type": [2, 3, 3, 1, 1],
    "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": "{{ messages[0].content }}",
}


def permute_for_gguf(rows, heads):
    """llama.cpp's conversion of q and k: halves of a head become neighbours."""
    size = len(rows) // heads
    out = []
    for head in range(heads):
        part = rows[head * size:(head + 1) * size]
        for i in range(size // 2):
            out += [part[i], part[i + size // 2]]
    return out


def write_gguf():
    symmetric = Linear(32, symmetric=True)
    embedding = [[f32(((n * 37 + k * 11) % 64 - 32) / 64) for k in range(32)] for n in range(5)]
    base = {"token_embd.weight": (1, [5, 32], halves(flat(embedding))), "output_norm.weight": (0, [32], floats([1.0] * 32))}
    query = [[f32(n + k / 64) for k in range(32)] for n in range(32)]
    kinds = {"q4_0": (2, q4_0(symmetric), flat(symmetric.weights()))}
    rng = random.Random(7)
    for name, kind, make in [("q4_1", 3, q4_1), ("q8_0", 8, q8_0), ("q4_k", 12, q4_k), ("q6_k", 14, q6_k)]:
        content, weights = make(rng)
        kinds[name] = (kind, content, weights)
    for name, (kind, content, weights) in kinds.items():
        tensors = dict(base)
        tensors["blk.0.attn_q.weight"] = (1, [32, 32], halves(flat(permute_for_gguf(query, 4))))
        tensors["blk.0.ffn_down.weight"] = (kind, [OUT, IN], content)
        gguf(ROOT / f"{name}.gguf", GGUF_VALUES, tensors)
        (ROOT / f"expected-{name}.f32").write_bytes(floats(weights))
    (ROOT / "expected-query.f32").write_bytes(floats(flat(query)))


def write_awq():
    for group in [128, 64, 32]:
        linear = Linear(group)
        linear.expected(f"g{group}")
        bias = {f"{MODULE}.bias": ("F16", [OUT], halves([half(n / 8) for n in range(OUT)]))}
        folder(f"awq-gemm-g{group}", {**awq_gemm(linear), **bias}, awq_config(group))
        qweight, rows, scales, zeros = gemv_fast(linear)
        folder(f"awq-gemv-fast-g{group}", {
            f"{MODULE}.qweight": ("I16", [OUT // 4, IN], qweight), f"{MODULE}.scales": ("F16", [rows, OUT], scales),
            f"{MODULE}.qzeros": ("F16", [rows, OUT], zeros)}, awq_config(group, "gemv_fast"))
    linear = Linear(128)
    folder("awq-old", awq_gemm(linear), extra={
        "quant_config.json": {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}})
    odd = Linear(16)
    odd.expected("g16")
    folder("awq-gemm-g16", awq_gemm(odd), awq_config(16))
    whole = Linear(IN)
    whole.expected(f"g{IN}")
    folder("awq-gemm-whole", awq_gemm(whole), awq_config(-1))
    for group in [128, 64, 32]:
        path = ROOT / f"llm-awq-g{group}"
        llm_awq(path / f"tiny-w4-g{group}-awq-v2.pt", Linear(group))
        (path / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")


def write_vision():
    """A LLaVA folder in both namings, and a VILA folder: the same linear, and a tower that stays as it is."""
    linear = Linear(128)
    tower = ("F16", [2, 4], halves([0.5] * 8))
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": CONFIG, "vision_config": {}}
    skip = awq_config(128, modules_to_not_convert=["vision_tower", "multi_modal_projector"])
    for name, text, vision in [("llava-old", "language_model.model.", ""), ("llava-new", "model.language_model.", "model.")]:
        folder(name, {**awq_gemm(linear, MODULE.replace("model.", text, 1)),
                      f"{vision}vision_tower.vision_model.post_layernorm.weight": ("F16", [4], halves([1.0] * 4)),
                      f"{vision}multi_modal_projector.linear_1.weight": tower}, skip, config)
    root = ROOT / "vila"
    llm_awq(root / "llm" / "tiny-w4-g128-awq-v2.pt", linear)
    (root / "llm" / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (root / "llm" / "model.safetensors.index.json").write_text('{"weight_map": {"x": "absent.safetensors"}}\n')
    safetensors(root / "vision_tower" / "model.safetensors", {"vision_model.post_layernorm.weight": ("F16", [4], halves([1.0] * 4))})
    safetensors(root / "mm_projector" / "model.safetensors", {"layers.2.weight": tower})
    for part, kind in [("vision_tower", "siglip_vision_model"), ("mm_projector", "v2l_projector")]:
        (root / part / "config.json").write_text(json.dumps({"model_type": kind}) + "\n")
    (root / "config.json").write_text(json.dumps({
        "architectures": ["LlavaLlamaModel"], "model_type": "llava_llama", "llm_cfg": {}, "vision_tower_cfg": {}, "mm_projector_cfg": {}}) + "\n")


def write_others():
    linear = Linear(128)
    folder("gptq-v1", gptq(linear, 1), {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": False})
    folder("gptq-v2", gptq(linear, 0), {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": False,
                                       "checkpoint_format": "gptq_v2"})
    order = list(range(IN))
    random.Random(5).shuffle(order)
    group_of = [0] * IN
    for position, k in enumerate(order):
        group_of[k] = position // 128
    linear.expected("act-order", group_of)
    folder("gptq-act-order", gptq(linear, 1, group_of), {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": False})
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 128}
    folder("compressed-pack", compressed(linear, False), compressed_config("pack-quantized", weights))
    symmetric = Linear(32, symmetric=True)
    symmetric.expected("sym32")
    folder("compressed-pack-sym", compressed(symmetric, True),
           compressed_config("pack-quantized", {**weights, "symmetric": True, "group_size": 32}))
    write_int8()
    values = flat(linear.weights())
    folder("dense-f16", {f"{MODULE}.weight": ("F16", [OUT, IN], halves(values))})
    folder("dense-bf16", {f"{MODULE}.weight": ("BF16", [OUT, IN], bfloats(values))})
    folder("dense-f32", {f"{MODULE}.weight": ("F32", [OUT, IN], floats(values))})


def write_int8():
    rng = random.Random(9)
    codes = [[rng.randrange(-127, 128) for _ in range(IN)] for _ in range(OUT)]
    scales = [f32(rng.uniform(0.001, 0.01)) for _ in range(OUT)]
    tensors = {f"{MODULE}.weight": ("I8", [OUT, IN], struct.pack(f"<{OUT * IN}b", *flat(codes))),
               f"{MODULE}.weight_scale": ("F32", [OUT, 1], floats(scales))}
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    inputs = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
    folder("compressed-int8", tensors, compressed_config("int-quantized", weights, inputs))
    static = {**tensors, f"{MODULE}.input_scale": ("F32", [1], floats([0.125]))}
    folder("compressed-int8-static", static,
           compressed_config("int-quantized", weights, {**inputs, "dynamic": False, "strategy": "tensor"}))
    (ROOT / "expected-int8.f32").write_bytes(floats([f32(q * scales[n]) for n in range(OUT) for q in codes[n]]))


if __name__ == "__main__":
    write_awq()
    write_others()
    write_vision()
    write_gguf()
    print(f"{ROOT}: {sum(1 for p in ROOT.rglob('*') if p.is_file())} files")
