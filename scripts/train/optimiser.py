"""Muon for the matrices of the layers, AdamW for everything else.

Muon (Keller Jordan et al., 2024): momentum, then the nearest orthogonal matrix by five Newton-Schulz steps. Matrices of
one shape are handled as one batch, so a step costs a few dozen kernels.
"""
import torch


def orthogonalise(g, steps=5):
    """Newton-Schulz iteration on a batch [n, r, c], in bf16 on the GPU."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16() if g.is_cuda else g.clone()
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * (s @ s)) @ x
    return (x.transpose(1, 2) if tall else x).to(g.dtype)


class Muon:
    def __init__(self, parameters, momentum=.95, decay=.0):
        self.groups, self.momentum, self.decay = {}, momentum, decay
        for p in parameters:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {shape: torch.zeros((len(ps),) + shape, device=ps[0].device) for shape, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, rate):
        for shape, parameters in self.groups.items():
            gradient, buffer = torch.stack([p.grad for p in parameters]), self.buffers[shape]
            buffer.lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp(buffer, self.momentum)) * max(1., shape[0] / shape[1]) ** .5
            for p, u in zip(parameters, update.unbind()):
                p.mul_(1 - rate * self.decay).add_(u, alpha=-rate)


class Optimiser:
    """Both together; `scale` in 0..1 is the schedule's multiplier."""

    def __init__(self, named, kind="muon", muon_rate=.015, adam_rate=2e-3, decay=.05):
        named = list(named)
        # the auxiliary heads and the patch embedding are input/output maps: AdamW serves those better
        matrix = lambda n, p: kind == "muon" and p.ndim == 2 and "layers." in n or n in ("linear_1.weight", "linear_2.weight")
        self.muon_rate, self.adam_rate = muon_rate, adam_rate
        self.muon = Muon([p for n, p in named if matrix(n, p)], decay=decay) if kind == "muon" else None
        rest = [(n, p) for n, p in named if not (self.muon and matrix(n, p))]
        wide = [p for _, p in rest if p.ndim == 2]
        thin = [p for _, p in rest if p.ndim != 2]
        fused = {"fused": True} if wide[0].is_cuda else {}
        self.adam = torch.optim.AdamW([{"params": wide, "weight_decay": decay}, {"params": thin, "weight_decay": 0.}],
                                      lr=adam_rate, betas=(.9, .95), eps=1e-8, **fused)

    def step(self, scale):
        if self.muon:
            self.muon.step(self.muon_rate * scale)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * scale
        self.adam.step()

    def state(self):
        return {"adam": self.adam.state_dict(), "muon": self.muon.buffers if self.muon else None}

    def load(self, state):
        self.adam.load_state_dict(state["adam"])
        if self.muon:
            self.muon.buffers = state["muon"]
