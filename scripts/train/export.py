"""Write and read the checkpoint folder (Hugging Face layout) with no dependency beyond torch and the standard library."""
import json
import os
import shutil
import struct

import torch

import bpe
import model as model_file

TEMPLATE = ("{%- for message in messages -%}"
            "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
            "{%- if message['content'] is string -%}{{- message['content'] -}}"
            "{%- else -%}{%- for part in message['content'] -%}"
            "{%- if not loop.first -%}{{- '\\n' -}}{%- endif -%}"
            "{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- else -%}{{- '<image>' -}}{%- endif -%}"
            "{%- endfor -%}{%- endif -%}"
            "{{- '<|im_end|>\\n' -}}"
            "{%- endfor -%}"
            "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}")
_NAMES = {torch.float16: "F16", torch.float32: "F32", torch.int32: "I32", torch.int64: "I64", torch.uint8: "U8"}


def write_safetensors(path, tensors, metadata=None):
    """A .safetensors file, tensors in name order, 8-byte aligned header."""
    header, offset = {"__metadata__": dict(metadata or {"format": "pt"})}, 0
    for name in sorted(tensors):
        t = tensors[name]
        size = t.numel() * t.element_size()
        header[name] = {"dtype": _NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(tensors[name].detach().cpu().contiguous().numpy().tobytes())


def read_safetensors(path):
    """{name: tensor} of a file written by write_safetensors."""
    back = {v: k for k, v in _NAMES.items()}
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header, data = json.loads(file.read(size)), file.read()
    out = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            out[name] = torch.frombuffer(bytearray(data[start:stop]), dtype=back[entry["dtype"]]).view(entry["shape"]).clone()
    return out


def load_weights(model, tensors):
    """Fill `model` from a LLaVA-named state dict of any float type."""
    for name, own in model.state_dict().items():
        own.copy_(tensors[model_file.checkpoint_name(name)].view(own.shape))
    return model


def dump(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def write_settings(folder, config):
    """Everything of the folder but the weights."""
    os.makedirs(folder, exist_ok=True)
    shutil.copyfile(bpe.PATH, os.path.join(folder, "tokenizer.json"))
    dump(os.path.join(folder, "config.json"), config)
    dump(os.path.join(folder, "generation_config.json"),
         {"eos_token_id": [bpe.IM_END, bpe.END_OF_TEXT], "pad_token_id": bpe.PAD, "do_sample": False, "max_new_tokens": 256})
    special = {"eos_token": bpe.SPECIAL[bpe.IM_END], "pad_token": bpe.SPECIAL[bpe.PAD]}
    dump(os.path.join(folder, "tokenizer_config.json"),
         dict(special, tokenizer_class="PreTrainedTokenizerFast", model_max_length=model_file.CONTEXT, clean_up_tokenization_spaces=False,
              image_token="<image>", bos_token=None, unk_token=None, chat_template=TEMPLATE,
              added_tokens_decoder={str(i): dict(content=t, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
                                    for i, t in enumerate(bpe.SPECIAL)}))
    dump(os.path.join(folder, "special_tokens_map.json"), special)
    with open(os.path.join(folder, "chat_template.jinja"), "w") as file:
        file.write(TEMPLATE)
    size = model_file.VISION["image_size"]
    dump(os.path.join(folder, "preprocessor_config.json"),
         {"image_processor_type": "SiglipImageProcessor", "processor_class": "LlavaProcessor", "do_convert_rgb": True, "do_resize": True,
          "size": {"height": size, "width": size}, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
          "image_mean": [.5, .5, .5], "image_std": [.5, .5, .5]})
    dump(os.path.join(folder, "processor_config.json"),
         {"processor_class": "LlavaProcessor", "image_token": "<image>", "patch_size": model_file.VISION["patch_size"],
          "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0})


def write_folder(folder, model):
    """The FP16 checkpoint folder."""
    write_settings(folder, model_file.config())
    tensors = {n: t.to(torch.float16) for n, t in model_file.to_huggingface(model).items()}
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
