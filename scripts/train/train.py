"""Train the model for a fixed time on one or more GPUs, then save it.

    python3 train.py --minutes 8 --out DIR                      one GPU
    torchrun --nproc_per_node 2 train.py --minutes 8 --out DIR  two

Every process renders its own pictures on its GPU from its own seeded workers; gradients are averaged in one flat
all-reduce. The schedule runs over time: warm up, hold, then fall to nothing by the end. --resume continues from
STATE/checkpoint.pt (full state) or from a folder that holds model.safetensors (weights alone).
"""
import argparse
import json
import os
import queue
import threading
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

import batches
import export
import model as model_file
import render
import world
from optimiser import Optimiser

GRID = 18          # auxiliary labels: two by two cells in every patch


class Auxiliary(nn.Module):
    """Training-only heads that name, per cell, the thing or letter whose centre lies there, and its colour."""

    def __init__(self, width):
        super().__init__()
        self.classes, self.colours = nn.Linear(width, 4 * world.N_CLASSES), nn.Linear(width, 4 * (len(world.COLOURS) + 1))

    def forward(self, features, labels):
        total = 0.
        for head, target in zip((self.classes, self.colours), labels):
            n, g = len(target), GRID // 2
            target = target.view(n, g, 2, g, 2).permute(0, 1, 3, 2, 4).reshape(-1)
            logits = head(features).reshape(len(target), -1).float()
            weight = torch.where(target > 0, 1., .04)
            total = total + (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
        return total


def answer_loss(hidden, table, at, target, weight):
    """(mean weighted cross-entropy, z-loss) of the final hidden states [T, width] at flat positions `at`."""
    logits = (hidden[at] @ table.to(hidden.dtype).t()).float()
    normaliser = torch.logsumexp(logits, -1)
    loss = normaliser - logits.gather(1, target[:, None])[:, 0]
    total = weight.sum()
    return (loss * weight).sum() / total, (normaliser.square() * weight).sum() / total


class Trainer:
    def __init__(self, options):
        self.o = options
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.feed = batches.Feed(options.seed + 104729 * self.rank, options.workers, options.rows, options.rows * 3, options.rows * 160)
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if self.cuda else torch.device("cpu")
        if self.cuda:
            torch.cuda.set_device(self.device)
            torch.backends.cuda.matmul.allow_tf32 = True
        if self.world > 1:
            dist.init_process_group("nccl")
        torch.manual_seed(options.seed)
        self.model = model_file.Tiny().to(self.device)
        self.auxiliary = Auxiliary(model_file.VISION["hidden_size"]).to(self.device)
        named = list(self.model.named_parameters()) + [("aux." + n, p) for n, p in self.auxiliary.named_parameters()]
        self.parameters = [p for _, p in named]
        self.optimiser = Optimiser(named, options.optimiser, options.muon_rate, options.adam_rate, options.decay)
        self.renderer = render.Renderer(self.device, compiled=options.compile)
        self.generator = torch.Generator(device=self.device).manual_seed(options.seed + 31 * self.rank)
        self.step, self.log, self.tokens, self.elapsed_before = 0, [], 0, 0.
        self.answer_loss = answer_loss
        if options.compile:
            for layer in list(self.model.vision.layers) + list(self.model.layers):
                layer.compile(dynamic=False)
            self.answer_loss = torch.compile(answer_loss, dynamic=False)
        if options.resume:
            self.resume(options.resume)
        self.ready = queue.Queue(3)
        threading.Thread(target=self.prefetch, daemon=True).start()

    # -- data --------------------------------------------------------------------------------------------------------

    def prefetch(self):
        while True:
            batch = {k: torch.from_numpy(v) for k, v in self.feed.get().items()}
            self.ready.put({k: v.pin_memory() for k, v in batch.items()} if self.cuda else batch)

    def next_batch(self):
        batch = {k: v.to(self.device, non_blocking=True) for k, v in self.ready.get().items()}
        for key in ("ids", "positions", "starts", "loss_at", "loss_id"):
            batch[key] = batch[key].long()
        return batch

    def check_renderer(self, batch):
        """The compiled drawing functions must give what the plain ones give."""
        if not self.o.compile or self.rank:
            return
        rows, grounds = batch["instances"][:64], batch["backgrounds"][:64]
        pair = []
        for compiled in (False, True):
            plain = render.Renderer(self.device)
            if compiled:
                plain.layer, plain.ground = self.renderer.layer, self.renderer.ground
                rows, grounds = batch["instances"], batch["backgrounds"]
            seeded = torch.Generator(device=self.device).manual_seed(1)
            pair.append(plain(rows, grounds, seeded, 0.)[:64])
        clean = batch["backgrounds"][:64, 0] != 4              # cloud backgrounds draw their noise per batch
        gap = (pair[0] - pair[1])[clean].abs()
        print(f"renderer: compiled against plain, mean difference {gap.mean():.6f}, share above 0.02 {(gap > .02).float().mean():.6f}", flush=True)

    # -- one step ----------------------------------------------------------------------------------------------------

    def losses(self, batch):
        pixels = self.renderer(batch["instances"], batch["backgrounds"], self.generator)
        labels = render.labels(batch["instances"], GRID)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda):
            features = self.model.vision(pixels * 2 - 1)
            bias = model_file.block_mask(batch["documents"], batch["branches"], torch.bfloat16 if self.cuda else torch.float32)
            hidden = self.model(batch["ids"], batch["positions"], bias, features, batch["starts"])
            answer, z = self.answer_loss(hidden.reshape(-1, hidden.shape[-1]), self.model.embed_tokens, batch["loss_at"], batch["loss_id"],
                                         batch["loss_weight"])
            real = batch["starts"] < batch["ids"].numel()
            aux = self.auxiliary(features, [t * real[:, None, None] for t in labels])
        return answer, aux, z

    def reduce(self):
        if self.world > 1:
            gradients = [p.grad for p in self.parameters]
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat)
            flat /= self.world
            for g, part in zip(gradients, flat.split([g.numel() for g in gradients])):
                g.copy_(part.view(g.shape))
        return torch.nn.utils.clip_grad_norm_(self.parameters, 1.)

    def schedule(self, progress):
        o = self.o
        if progress < o.warmup:
            return max(progress / o.warmup, .02)
        return 1. if progress < o.hold else max((1 - progress) / (1 - o.hold), 0.)

    def progress(self):
        """Fraction of the time used, agreed among processes."""
        value = torch.tensor((time.time() - self.begin + self.elapsed_before) / (self.o.minutes * 60), device=self.device)
        if self.world > 1:
            dist.broadcast(value, 0)
        return value.item()

    def run(self):
        self.begin, progress, sums, since = None, 0., torch.zeros(3, device=self.device), time.time()
        starved = 0.
        while progress < 1 and self.step != self.o.steps:
            waited = time.time()
            batch = self.next_batch()
            starved += time.time() - waited
            answer, aux, z = self.losses(batch)
            weight = self.o.aux * max(1 - progress / .7, .08)
            (answer + weight * aux + 1e-4 * z).backward()
            self.reduce()
            self.optimiser.step(self.schedule(progress))
            torch._foreach_zero_([p.grad for p in self.parameters])
            sums += torch.stack([answer.detach().float(), aux.detach().float(), z.detach().float()])
            self.step += 1
            self.tokens += batch["ids"].numel() * self.world
            if self.begin is None:
                if self.cuda:
                    torch.cuda.synchronize()
                print(f"[{self.rank}] first step after {time.time() - since:.1f} s", flush=True)
                self.check_renderer(batch)
                self.begin = since = time.time()
            if self.step % 10 == 0:
                progress = self.progress()
            if self.step % self.o.every == 0:
                self.report(sums / self.o.every, progress, time.time() - since, starved)
                sums, since, starved = torch.zeros_like(sums), time.time(), 0.
                self.checkpoint()
        if self.rank == 0:
            self.save(final=True)
        self.feed.close()

    # -- keeping -----------------------------------------------------------------------------------------------------

    def report(self, means, progress, seconds, starved):
        answer, aux, z = means.tolist()
        rate = self.o.every * self.o.rows * batches.LENGTH * self.world / seconds
        self.log.append(dict(step=self.step, progress=round(progress, 4), answer=round(answer, 5), aux=round(aux, 5), z=round(z, 3),
                             tokens_per_second=round(rate), waited=round(starved / seconds, 3), tokens=self.tokens))
        if self.rank == 0:
            print(json.dumps(self.log[-1]), flush=True)

    def checkpoint(self):
        if self.rank or time.time() - getattr(self, "saved", self.begin) < 60:
            return
        self.saved = time.time()
        self.save()

    def save(self, final=False):
        os.makedirs(self.o.out, exist_ok=True)
        tensors = {n: t.to(torch.float16) for n, t in model_file.to_huggingface(self.model).items()}
        path = os.path.join(self.o.out, "model.safetensors")
        export.write_safetensors(path + ".part", tensors)
        os.replace(path + ".part", path)
        with open(os.path.join(self.o.out, "train-log.jsonl"), "w") as file:
            file.write("\n".join(map(json.dumps, self.log)) + "\n")
        if self.o.state:
            os.makedirs(self.o.state, exist_ok=True)
            torch.save({"model": self.model.state_dict(), "aux": self.auxiliary.state_dict(), "optimiser": self.optimiser.state(),
                        "step": self.step, "tokens": self.tokens, "log": self.log,
                        "elapsed": time.time() - self.begin + self.elapsed_before, "final": final},
                       os.path.join(self.o.state, "checkpoint.pt"))

    def resume(self, path):
        if os.path.isdir(path):
            export.load_weights(self.model, export.read_safetensors(os.path.join(path, "model.safetensors")))
            return
        kept = torch.load(path, map_location=self.device, weights_only=False)
        self.model.load_state_dict(kept["model"])
        self.auxiliary.load_state_dict(kept["aux"])
        self.optimiser.load(kept["optimiser"])
        self.step, self.tokens, self.log, self.elapsed_before = kept["step"], kept["tokens"], kept["log"], kept["elapsed"]


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("--minutes", type=float, default=8.)
    p.add_argument("--steps", type=int, default=-1, help="stop after so many steps even if time is left")
    p.add_argument("--out", required=True)
    p.add_argument("--state", default=None, help="folder for the full checkpoint")
    p.add_argument("--resume", default=None)
    p.add_argument("--rows", type=int, default=batches.ROWS, help="rows of 512 tokens a step and process")
    p.add_argument("--workers", type=int, default=12, help="data processes per GPU")
    p.add_argument("--optimiser", choices=("muon", "adam"), default="muon")
    p.add_argument("--muon-rate", type=float, default=.015)
    p.add_argument("--adam-rate", type=float, default=2e-3)
    p.add_argument("--decay", type=float, default=.05)
    p.add_argument("--warmup", type=float, default=.02)
    p.add_argument("--hold", type=float, default=.5, help="fraction of the time after which the rate falls")
    p.add_argument("--aux", type=float, default=.5)
    p.add_argument("--seed", type=int, default=1234)
    p.add_argument("--every", type=int, default=50)
    p.add_argument("--no-compile", dest="compile", action="store_false")
    return p.parse_args()


if __name__ == "__main__":
    trainer = Trainer(parse())
    trainer.run()
    if trainer.world > 1:
        dist.barrier()
        dist.destroy_process_group()
