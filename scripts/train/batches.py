"""Conversations to packed training rows, in worker processes.

A row of LENGTH tokens holds whole documents. Branches of a document share its head (the pictures) and do not see one
another: position ids restart after the head, and the mask lets token i see token j of the same document when j <= i and
j is in the head or in i's branch. One picture's tokens thus serve many questions.
"""
import random

import numpy as np

import bpe
import render
import talk

LENGTH, IMAGE_TOKENS = 512, 81
ROWS, IMAGES, TARGETS = 256, 768, 40960        # of one batch; pictures and loss positions are padded up to these
CONTEXT = 2048


class Tokens:
    """Turns documents into (ids, positions, branches, weights) lists."""

    def __init__(self):
        self.encoder = bpe.Encoder()
        e = self.encoder.encode
        self.newline = e("\n")
        self.user, self.system = [bpe.IM_START] + e("user\n"), [bpe.IM_START] + e("system\n")
        self.end = [bpe.IM_END] + self.newline
        self.assistant = self.end + [bpe.IM_START] + e("assistant\n")

    def parts(self, parts):
        """Message content: pictures (ints) and texts, joined by newlines."""
        out = []
        for i, part in enumerate(parts):
            out += (self.newline if i else []) + ([bpe.IMAGE] * IMAGE_TOKENS if isinstance(part, int) else self.encoder.encode(part))
        return out

    def head(self, document):
        system = self.system + self.encoder.encode(document.system) + self.end if document.system else []
        return system + self.user + self.parts(document.head)

    def branch(self, document, turns):
        """(ids, weights) of one branch; the weight of a token counts 16ths."""
        ids, weights = [], []
        for i, (question, answer, c) in enumerate(turns):
            question = [question] if isinstance(question, str) else question or []
            lead = (self.newline if i == 0 and document.head and question else []) if i == 0 else self.newline + self.user
            lead = lead + self.parts(question) + self.assistant
            reply = self.encoder.encode(answer) + [bpe.IM_END]
            weight = 16 if len(reply) <= 10 else int(16 * (.2 + 8 / len(reply)))
            if c and c["kind"] in ("icl", "compare2", "compare3"):
                weight = min(2 * weight, 32)
            if c is None and len(reply) > 30:
                weight = 10                                   # a story told on request
            weight = 0 if i < document.demonstrations else weight
            ids += lead + reply
            weights += [0] * len(lead) + [weight] * len(reply)
        return ids, weights

    def prompt(self, document, turn=0):
        """ids of the first branch up to where the reply to its turn number `turn` begins."""
        ids, weights = self.branch(document, document.branches[0][:turn + 1])
        reply = self.encoder.encode(document.branches[0][turn][1]) + [bpe.IM_END]
        return self.head(document) + ids[:len(ids) - len(reply)], reply


class Batch:
    """Arrays of one batch under construction."""

    def __init__(self, rows):
        self.rows = rows
        self.ids = np.full((rows, LENGTH), bpe.PAD, np.int16)
        self.positions = np.zeros((rows, LENGTH), np.int16)
        self.documents = np.full((rows, LENGTH), -1, np.int8)
        self.branches = np.zeros((rows, LENGTH), np.int8)
        self.weights = np.zeros((rows, LENGTH), np.uint8)
        self.used, self.count = [0] * rows, [0] * rows
        self.pictures, self.starts = [], []

    def put(self, row, ids, positions, branches, weights):
        start = self.used[row]
        stop = start + len(ids)
        self.ids[row, start:stop], self.positions[row, start:stop] = ids, positions
        self.documents[row, start:stop], self.branches[row, start:stop] = self.count[row], branches
        self.weights[row, start:stop] = weights
        self.used[row], self.count[row] = stop, self.count[row] + 1
        return start

    def finish(self, rows, images, targets):
        instances, backgrounds = render.pack_pictures(self.pictures)
        pad = images - len(self.pictures)
        instances = np.concatenate([instances, np.full((pad,) + instances.shape[1:], -9, np.float32)])
        backgrounds = np.concatenate([backgrounds, np.zeros((pad, backgrounds.shape[1]), np.float32)])
        starts = np.array(self.starts + [rows * LENGTH] * pad, np.int32)
        flat = self.weights.reshape(-1)
        where = np.flatnonzero(flat[1:]) + 1
        where = where[(where % LENGTH) != 0][:targets]
        loss_at, loss_id, loss_weight = (np.zeros(targets, t) for t in (np.int32, np.int16, np.float32))
        loss_at[:len(where)], loss_id[:len(where)] = where - 1, self.ids.reshape(-1)[where]
        loss_weight[:len(where)] = flat[where] / 16
        return dict(ids=self.ids, positions=self.positions, documents=self.documents, branches=self.branches, instances=instances,
                    backgrounds=backgrounds, starts=starts, loss_at=loss_at, loss_id=loss_id, loss_weight=loss_weight)


class Packer:
    """Fills batches from the training mix; everything follows from the seed."""

    def __init__(self, seed, rows=ROWS, images=IMAGES, targets=TARGETS):
        self.rng, self.tokens = random.Random(seed), Tokens()
        self.words, self.library = talk.load_words(self.tokens.encoder.pieces()), talk.Library()
        self.rows, self.images, self.targets = rows, images, targets

    def document(self):
        if self.rng.random() < .03:
            return talk.story_document(self.rng, self.library)
        return talk.sample_document(self.rng, self.words, self.library)

    def raw(self, text, room):
        ids = self.tokens.encoder.encode(text)
        ids = ([bpe.END_OF_TEXT] if self.rng.random() < .8 else []) + ids + [bpe.END_OF_TEXT]
        ids = ids[:room]
        return ids, list(range(len(ids))), [0] * len(ids), [0] + [8] * (len(ids) - 1)

    def lay_out(self, document, room):
        """As many branches as fit into `room` tokens, or None if not even one does."""
        if document.raw:
            return self.raw(document.raw, room) if room >= 64 else None
        head = self.tokens.head(document)
        ids, positions = list(head), list(range(len(head)))
        branches, weights = [0] * len(head), [0] * len(head)
        for number, turns in enumerate(document.branches, 1):
            tail, tail_weights = self.tokens.branch(document, turns)
            if len(ids) + len(tail) > room:
                if number == 1 and not document.pictures and room >= 128 and len(head) + 40 < room:
                    tail, tail_weights = tail[:room - len(ids)], tail_weights[:room - len(ids)]     # a long story may be cut
                else:
                    continue
            skip = self.rng.randrange(CONTEXT - 600) if self.rng.random() < .05 else 0
            ids += tail
            positions += range(len(head) + skip, len(head) + skip + len(tail))
            branches += [number] * len(tail)
            weights += tail_weights
        return (ids, positions, branches, weights) if len(ids) > len(head) else None

    def batch(self):
        b = Batch(self.rows)
        for row in range(self.rows):
            misses = 0
            while misses < 6 and LENGTH - b.used[row] > 110:
                document = self.document()
                if len(b.pictures) + len(document.pictures) > self.images:
                    misses += 1
                    continue
                laid = self.lay_out(document, LENGTH - b.used[row])
                if laid is None:
                    misses += 1
                    continue
                start = b.put(row, *laid)
                places = [i for i, t in enumerate(laid[0]) if t == bpe.IMAGE][::IMAGE_TOKENS]
                b.pictures += document.pictures
                b.starts += [row * LENGTH + start + p for p in places]
            if LENGTH - b.used[row] > 24:
                text, _ = self.library.sample(self.rng)
                cut = self.rng.randrange(max(len(text) - 100, 1)) if self.rng.random() < .5 else 0
                b.put(row, *self.raw(text[text.find(" ", cut) + 1 if cut else 0:], LENGTH - b.used[row]))
        return b.finish(self.rows, self.images, self.targets)


def worker(seed, queue, rows, images, targets):
    packer = Packer(seed, rows, images, targets)
    while True:
        queue.put(packer.batch())


class Feed:
    """Worker processes read in turn, so that the stream of batches depends on the seeds alone."""

    def __init__(self, seed, workers, rows=ROWS, images=IMAGES, targets=TARGETS):
        import multiprocessing
        context = multiprocessing.get_context("fork")
        self.queues = [context.Queue(2) for _ in range(workers)]
        self.processes = [context.Process(target=worker, args=(seed + 7919 * i, q, rows, images, targets), daemon=True)
                          for i, q in enumerate(self.queues)]
        for p in self.processes:
            p.start()
        self.next = 0

    def get(self):
        batch = self.queues[self.next].get()
        self.next = (self.next + 1) % len(self.queues)
        return batch

    def close(self):
        for p in self.processes:
            p.terminate()
