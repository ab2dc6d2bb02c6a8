"""The byte-level BPE tokenizer: training (pure Python, a minute), tokenizer.json, and a light encoder.

The encoder here serves the data workers; data/tokenizer.json is what Hugging Face `tokenizers` loads, and the training
script checks that both give the same ids. Digits are never merged, so numbers are read digit by digit.
"""
import collections
import json
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PATH = os.path.join(HERE, "data", "tokenizer.json")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<pad>"]
END_OF_TEXT, IM_START, IM_END, IMAGE, PAD = range(5)
VOCABULARY = 4096
# GPT-2's pattern, for ASCII text (the training text holds nothing else)
PRETOKEN = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def byte_alphabet():
    """GPT-2's printable character for every byte."""
    kept = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table, extra = {}, 0
    for b in range(256):
        table[b] = chr(b) if b in kept else chr(256 + extra)
        extra += b not in kept
    return table


ALPHABET = byte_alphabet()


def train(counts, merges_wanted):
    """Greedy BPE over {pretoken: count}; returns the list of merges (pairs of strings)."""
    words = [([ALPHABET[b] for b in w.encode()], n) for w, n in counts.items()]
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, (symbols, n) in enumerate(words):
        for pair in zip(symbols, symbols[1:]):
            pairs[pair] += n
            where[pair].add(i)
    merges = []
    while len(merges) < merges_wanted:
        best = max(pairs, key=lambda p: (pairs[p], p))
        if pairs[best] < 2:
            break
        merges.append(best)
        joined = best[0] + best[1]
        for i in list(where[best]):
            symbols, n = words[i]
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] -= n
                where[pair].discard(i)
            out, k = [], 0
            while k < len(symbols):
                if k + 1 < len(symbols) and (symbols[k], symbols[k + 1]) == best:
                    out.append(joined)
                    k += 2
                else:
                    out.append(symbols[k])
                    k += 1
            words[i] = (out, n)
            for pair in zip(out, out[1:]):
                pairs[pair] += n
                where[pair].add(i)
        del pairs[best]
    return merges


def write(merges, path=PATH):
    vocabulary = SPECIAL + [ALPHABET[b] for b in range(256)] + [x + y for x, y in merges]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                          "special": True} for i, t in enumerate(SPECIAL)],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(vocabulary)}, "merges": [f"{x} {y}" for x, y in merges]}}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False, separators=(",", ":"))


class Encoder:
    """encode(text) -> ids, for text without special tokens; remembers every pretoken it has met."""

    def __init__(self, path=PATH):
        model = json.load(open(path, encoding="utf-8"))["model"]
        self.ids = model["vocab"]
        self.tokens = {i: t for t, i in self.ids.items()}
        self.rank = {tuple(m.split(" ")): i for i, m in enumerate(model["merges"])}
        self.bytes = {c: b for b, c in ALPHABET.items()}
        self.known = {}

    def pieces(self):
        """The vocabulary's entries that hold no space marker."""
        return [t for t in self.ids if t not in SPECIAL]

    def _word(self, word):
        symbols = [ALPHABET[b] for b in word.encode()]
        while len(symbols) > 1:
            best = min(range(len(symbols) - 1), key=lambda i: self.rank.get((symbols[i], symbols[i + 1]), 1 << 30))
            if (symbols[best], symbols[best + 1]) not in self.rank:
                break
            symbols[best:best + 2] = [symbols[best] + symbols[best + 1]]
        return [self.ids[s] for s in symbols]

    def encode(self, text):
        out = []
        for word in PRETOKEN.findall(text):
            ids = self.known.get(word)
            if ids is None:
                ids = self.known[word] = self._word(word)
            out += ids
        return out

    def decode(self, ids):
        text = "".join(self.tokens[i] for i in ids if i >= len(SPECIAL))
        return bytes(self.bytes[c] for c in text).decode("utf-8", errors="replace")


def corpus(seed=7):
    """Pretoken counts: the stories, made-up stories, and a sample of the conversations."""
    import random
    import talk
    rng, counts = random.Random(seed), collections.Counter()
    words, library = talk.load_words(), talk.Library()
    feed = lambda text, n=1: counts.update({w: n * c for w, c in collections.Counter(PRETOKEN.findall(text)).items()})
    for story in library.stories:
        feed(story)
    for _ in range(400):
        feed(talk.stories.made_up(rng)[0])
    for _ in range(1500):
        document = talk.sample_document(rng, words, library)
        for branch in document.branches:
            for question, answer, c in branch:
                feed(question if isinstance(question, str) else "")
                feed(answer if c and c["kind"] not in ("word", "spell") else "")
    for word in words.train:
        feed(word)
    return collections.Counter({w: n for w, n in counts.items() if not re.search(r"[0-9]", w)})


def main():
    counts = corpus()
    merges = train(counts, VOCABULARY - len(SPECIAL) - 256)
    write(merges)
    print(f"{len(counts)} pretokens, {len(merges)} merges")
    encoder = Encoder()
    words = open(os.path.join(HERE, "data", "words.txt")).read().split()
    kept = [w.lstrip("*") if len(encoder.encode(w.lstrip("*"))) == 1 else w for w in words]     # held-out words are never one token
    open(os.path.join(HERE, "data", "words.txt"), "w").write("\n".join(kept) + "\n")
    print(sum(w.startswith("*") for w in kept), "held-out words")


if __name__ == "__main__":
    sys.exit(main())
