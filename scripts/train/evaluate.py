"""Held-out questions: making them, scoring a model on them, and the 500 that ship as files."""
import json
import os
import random
import re

import numpy as np
import torch

import bpe
import render
import talk
from batches import IMAGE_TOKENS, Tokens

# questions of each kind in the table of 5,000 and in the fixture of 500
KINDS = {"colour": .07, "shape": .08, "count": .11, "relation": .09, "digit": .07, "word": .09, "spell": .03, "compare2": .09, "compare3": .05,
         "icl": .08, "steps": .05, "multiturn": .05, "describe": .03, "plot": .03, "exists": .02, "pattern": .02, "refuse": .02, "text": .02}


def normalise(text):
    return " " + " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower()).split()) + " "


def is_right(reply, c):
    """The evaluator's rule (test/fixtures/default-model/README.md states it for other languages)."""
    if c.get("exact") is not None:
        return " ".join(reply.split()) == " ".join(c["exact"].split())
    said = normalise(reply)
    holds = lambda phrase: normalise(phrase) in said
    return all(any(holds(p) for p in alternatives) for alternatives in c["required"]) and not any(holds(p) for p in c["rejected"])


def sources(rng, words, library):
    """For every kind, a function that makes a document likely to hold such a question."""
    scene = lambda: talk.scene_document(rng, True)
    text = lambda: talk.text_document(rng, words, True)
    two = lambda: talk.change_document(rng, True) if rng.random() < .55 else talk.pair_document(rng, True)
    table = {k: scene for k in ("colour", "shape", "count", "relation", "steps", "multiturn", "describe", "exists", "pattern", "refuse")}
    table.update(digit=text, word=text, spell=text, compare2=two, compare3=lambda: talk.triple_document(rng, True),
                 icl=lambda: talk.icl_document(rng, words, True), plot=lambda: talk.plot_document(rng, True),
                 text=lambda: talk.chat_document(rng, library))
    return table


def make_items(count, seed):
    """`count` (kind, document) pairs; each document is one branch whose last turn is the question."""
    rng, tokens = random.Random(seed), Tokens()
    words, library = talk.load_words(tokens.encoder.pieces()), talk.Library(held_out=True)
    table, items = sources(rng, words, library), []
    for kind, share in KINDS.items():
        wanted = round(share * count)
        while wanted:
            document = table[kind]()
            options = [(b, i) for b in document.branches for i, t in enumerate(b) if t[2] and t[2]["kind"] == kind
                       and (i == 0 or kind == "multiturn" or document.demonstrations)]
            if kind == "multiturn":
                options = [(b, i) for b, i in options if i > 0]
            if kind in ("count", "steps"):
                options = [(b, i) for b, i in options if len(document.pictures[0].things) <= 7 and "seven" not in b[i][1]]
            if not options:
                continue
            branch, i = rng.choice(options)
            one = talk.Document(document.pictures, document.head, [branch[:i + 1]], demonstrations=document.demonstrations)
            if kind not in ("text", "icl") and i == 0:
                one = talk.with_order(rng, one)
            items.append((kind, one))
            wanted -= 1
    return items


class Prepared:
    """Items as tensors: token lists, replies, checks, and the pictures rendered at `size` and kept as uint8."""

    def __init__(self, items, device, seed, size=144, pixels=None):
        tokens = Tokens()
        self.encoder, self.device = tokens.encoder, device
        self.kinds = [k for k, _ in items]
        self.checks = [d.branches[0][-1][2] for _, d in items]
        self.prompts, self.replies = zip(*(tokens.prompt(d, len(d.branches[0]) - 1) for _, d in items))
        self.first, pictures = [], []
        for _, d in items:
            self.first.append(len(pictures))
            pictures += d.pictures
        self.pixels = render_uint8(pictures, device, seed, size) if pixels is None else pixels


@torch.no_grad()
def render_uint8(pictures, device, seed, size, strength=1.):
    """uint8 [N, 3, S, S] on the CPU."""
    renderer, out = render.Renderer(device, size), []
    generator = torch.Generator(device=device).manual_seed(seed)
    for i in range(0, len(pictures), 256):
        instances, backgrounds = render.pack_pictures(pictures[i:i + 256])
        image = renderer(torch.from_numpy(instances).to(device), torch.from_numpy(backgrounds).to(device), generator, strength)
        out.append((image * 255).round().byte().cpu())
    return torch.cat(out)


@torch.no_grad()
def features(model, prepared, batch=512):
    """Projector inputs of every picture, [N, 81, width] on the device."""
    out = []
    for i in range(0, len(prepared.pixels), batch):
        out.append(model.vision(prepared.pixels[i:i + batch].to(prepared.device).float() / 127.5 - 1))
    return torch.cat(out)


@torch.no_grad()
def hidden_states(model, prepared, feats, chosen, sequences):
    """Final hidden states [B, L, width] of token lists, right-padded (causal, so padding does no harm)."""
    device, length = prepared.device, max(map(len, sequences))
    ids = torch.full((len(sequences), length), bpe.PAD)
    starts, used = [], []
    for row, (item, sequence) in enumerate(zip(chosen, sequences)):
        ids[row, :len(sequence)] = torch.tensor(sequence)
        places = [i for i, t in enumerate(sequence) if t == bpe.IMAGE][::IMAGE_TOKENS]
        starts += [row * length + p for p in places]
        used += range(prepared.first[item], prepared.first[item] + len(places))
    order = torch.arange(length, device=device)
    bias = torch.zeros(length, length, device=device).masked_fill(order[:, None] < order[None], float("-inf"))[None, None]
    positions = order[None].expand(len(sequences), -1)
    starts = torch.tensor(starts or [len(sequences) * length], device=device)
    picked = feats[torch.tensor(used, device=device)] if used else feats.new_zeros(1, IMAGE_TOKENS, feats.shape[-1])
    return model(ids.to(device), positions, bias, picked, starts)


@torch.no_grad()
def generate(model, prepared, feats, chosen, limit=110):
    """Greedy replies (text) of the chosen items, without a cache."""
    sequences, open_ = [list(prepared.prompts[i]) for i in chosen], list(range(len(chosen)))
    for _ in range(limit):
        if not open_:
            break
        hidden = hidden_states(model, prepared, feats, [chosen[k] for k in open_], [sequences[k] for k in open_])
        last = torch.tensor([len(sequences[k]) - 1 for k in open_], device=hidden.device)
        best = model.logits(hidden[torch.arange(len(open_), device=hidden.device), last].float()).argmax(-1).tolist()
        for k, token in zip(open_, best):
            sequences[k].append(token)
        open_ = [k for k, token in zip(open_, best) if token not in (bpe.IM_END, bpe.END_OF_TEXT)]
    return [prepared.encoder.decode(s[len(prepared.prompts[i]):]) for i, s in zip(chosen, sequences)]


@torch.no_grad()
def score(model, prepared, batch=128):
    """Per item: (right, log-probability of the canonical reply, its tokens, the reply). Greedy decoding equals the canonical
    reply exactly when every teacher-forced argmax does, so only the others are generated."""
    feats = features(model, prepared)
    order = sorted(range(len(prepared.prompts)), key=lambda i: len(prepared.prompts[i]) + len(prepared.replies[i]))
    results, differing = [None] * len(order), []
    for start in range(0, len(order), batch):
        chosen = order[start:start + batch]
        sequences = [prepared.prompts[i] + prepared.replies[i] for i in chosen]
        hidden = hidden_states(model, prepared, feats, chosen, sequences)
        for row, i in enumerate(chosen):
            p, reply = len(prepared.prompts[i]), torch.tensor(prepared.replies[i], device=hidden.device)
            logits = model.logits(hidden[row, p - 1:p - 1 + len(reply)].float())
            logprob = torch.log_softmax(logits, -1).gather(1, reply[:, None]).sum()
            same = (logits.argmax(-1) == reply).all()
            results[i] = [same, logprob, len(reply), None]
    flags = torch.stack([r[0] for r in results]).tolist()
    probabilities = torch.stack([r[1] for r in results]).tolist()
    differing = [i for i in order if not flags[i]]
    replies = {}
    for start in range(0, len(differing), batch):
        chosen = differing[start:start + batch]
        replies.update(zip(chosen, generate(model, prepared, feats, chosen)))
    out = []
    for i in range(len(results)):
        text = replies.get(i, prepared.encoder.decode(prepared.replies[i]))
        out.append((is_right(text, prepared.checks[i]), probabilities[i], len(prepared.replies[i]), text))
    return out


def table(prepared, results):
    """{kind: {n, accuracy, logprob_per_reply, logprob_per_token}} and 'all'."""
    out = {}
    for kind in list(KINDS) + ["all"]:
        rows = [r for k, r in zip(prepared.kinds, results) if kind in (k, "all")]
        if rows:
            out[kind] = {"n": len(rows), "accuracy": round(sum(r[0] for r in rows) / len(rows), 4),
                         "logprob_per_reply": round(sum(r[1] for r in rows) / len(rows), 4),
                         "logprob_per_token": round(sum(r[1] for r in rows) / sum(r[2] for r in rows), 5)}
    return out


# ---- the fixture ---------------------------------------------------------------------------------------------------

def to_messages(document, files):
    """OpenAI-like messages; a picture is {"type": "image", "image": file}."""
    content = lambda parts: [{"type": "image", "image": files[p]} if isinstance(p, int) else {"type": "text", "text": p} for p in parts]
    messages = [{"role": "system", "content": document.system}] if document.system else []
    for i, (question, answer, _) in enumerate(document.branches[0]):
        question = [question] if isinstance(question, str) else list(question or [])
        parts = (list(document.head) if i == 0 else []) + question
        messages.append({"role": "user", "content": content(parts) if any(isinstance(p, int) for p in parts) else "\n".join(parts)})
        messages.append({"role": "assistant", "content": answer})
    return messages[:-1]


def write_fixture(folder, items, seed, device):
    """Pictures and eval.jsonl for `items`; sizes and file formats vary so that decoding and resizing are tested too."""
    from PIL import Image
    os.makedirs(os.path.join(folder, "images"), exist_ok=True)
    rng, lines = random.Random(seed), []
    sizes = [rng.choice((144, 144, 160, 192)) for _ in items]
    rendered = {}
    for size in sorted(set(sizes)):
        chosen = [i for i, s in enumerate(sizes) if s == size]
        pictures = [p for i in chosen for p in items[i][1].pictures]
        pixels = render_uint8(pictures, device, seed + size, size) if pictures else []
        at = 0
        for i in chosen:
            n = len(items[i][1].pictures)
            rendered[i], at = pixels[at:at + n], at + n
    for i, (kind, document) in enumerate(items):
        files = []
        for j, pixels in enumerate(rendered[i]):
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            files.append("images/" + save_picture(image, os.path.join(folder, "images"), f"{i:03d}{'abc'[j]}"))
        c = document.branches[0][-1][2]
        line = {"id": f"{i:03d}", "kind": kind, "messages": to_messages(document, files), "accepted": [document.branches[0][-1][1]],
                "required": c["required"], "rejected": c["rejected"]}
        if c.get("exact"):
            line["exact"] = c["exact"]
        lines.append(json.dumps(line, ensure_ascii=False))
    with open(os.path.join(folder, f"eval-{len(items)}.jsonl"), "w") as file:
        file.write("\n".join(lines) + "\n")


def save_picture(image, folder, stem):
    """PNG where it is small (flat drawings), JPEG otherwise."""
    import io
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    if len(buffer.getvalue()) <= 5000:
        name = stem + ".png"
    else:
        buffer, name = io.BytesIO(), stem + ".jpg"
        image.save(buffer, "JPEG", quality=82)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(buffer.getvalue())
    return name


def load_fixture_pixels(folder, items, size=144):
    """The fixture's pictures as the server sees them: decoded, resized (bicubic, antialiased) to uint8 [N, 3, S, S]."""
    from PIL import Image
    out = []
    for line in open(os.path.join(folder, f"eval-{len(items)}.jsonl")):
        for message in json.loads(line)["messages"]:
            if isinstance(message["content"], list):
                for part in message["content"]:
                    if part["type"] == "image":
                        image = Image.open(os.path.join(folder, part["image"])).convert("RGB").resize((size, size), Image.BICUBIC)
                        out.append(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1))
    return torch.stack(out)
