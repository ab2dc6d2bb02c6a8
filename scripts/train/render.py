"""Pictures to pixels, batched, on whatever device the tensors are on.

Every instance is a distance tile (or an analytic box) under an affine map, so one function draws shapes, icons,
glyphs, bars and lines; `torch.compile` fuses it into one pass per layer.
"""
import numpy as np
import torch
import torch.nn.functional as F

import world

TILE = world.ATLAS["tiles"].shape[1]
_JPEG_LUMA = [16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
              51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121,
              120, 101, 72, 92, 95, 98, 112, 100, 103, 99]


def pack_pictures(pictures):
    """Lists of Picture to (instances [N, MAX_INSTANCES, INSTANCE], backgrounds [N, BACKGROUND]) float32 arrays."""
    instances = np.zeros((len(pictures), world.MAX_INSTANCES, world.INSTANCE), np.float32)
    instances[:, :, 0] = -9          # no such tile: an empty slot
    instances[:, :, 1:3] = -5
    instances[:, :, 7:9] = 1
    backgrounds = np.zeros((len(pictures), world.BACKGROUND), np.float32)
    for i, picture in enumerate(pictures):
        if picture.instances:
            instances[i, :len(picture.instances)] = picture.instances
        backgrounds[i] = picture.background
    return instances, backgrounds


def _grid(size, device):
    axis = (torch.arange(size, device=device, dtype=torch.float32) + .5) / size
    return axis.view(1, 1, size), axis.view(1, size, 1)


def _tap(atlas, tile, iu, iv):
    iu, iv = iu.clamp(0, TILE - 1), iv.clamp(0, TILE - 1)
    return atlas[(tile * TILE + iv) * TILE + iu].float()


def draw_layer(canvas, rows, atlas, size):
    """Composite one instance per picture: canvas [N, 3, S, S], rows [N, INSTANCE], atlas flat uint8."""
    x, y = _grid(size, canvas.device)
    p = rows[:, :, None, None].unbind(1)
    dx, dy = x - p[1], y - p[2]
    u, v = p[3] * dx + p[4] * dy, p[5] * dx + p[6] * dy
    fu, fv = (u * .5 + .5) * TILE - .5, (v * .5 + .5) * TILE - .5
    iu, iv = fu.clamp(-2, TILE + 1).floor(), fv.clamp(-2, TILE + 1).floor()
    wu, wv = (fu - iu).clamp(0, 1), (fv - iv).clamp(0, 1)
    iu, iv, tile = iu.long(), iv.long(), p[0].clamp(min=0).long()
    top = _tap(atlas, tile, iu, iv) * (1 - wu) + _tap(atlas, tile, iu + 1, iv) * wu
    low = _tap(atlas, tile, iu, iv + 1) * (1 - wu) + _tap(atlas, tile, iu + 1, iv + 1) * wu
    spread = float(world.ATLAS["spread"]) * 2 / TILE / 127
    sdf = ((top * (1 - wv) + low * wv) - 128) * spread * torch.minimum(p[7], p[8])
    box = torch.maximum((u.abs() - 1) * p[7], (v.abs() - 1) * p[8])
    inside = (u.abs() < 1) & (v.abs() < 1)
    d = torch.where(p[0] == world.BOX_TILE, box, torch.where(inside, sdf, torch.ones_like(sdf)))
    d = torch.where(p[0] < -2, torch.ones_like(d), d)
    d = torch.where(p[18] > 0, (d + p[18]).abs() - p[18], d)
    cover = (.5 - d * size).clamp(0, 1)
    s, t = u * p[16] + p[17], v * p[16] + p[17]
    stripes = ((s + .35 * t).sin() > .25)
    dots = ((s * 1.3).sin() * (t * 1.3).sin()) > .35
    checks = (s.sin() * t.sin()) > 0
    kind = p[12]
    second = ((kind == 1) & stripes) | ((kind == 2) & dots) | ((kind == 3) & checks)
    w = second.float()[:, None]
    first, other = rows[:, 9:12, None, None], rows[:, 13:16, None, None]
    return canvas + cover[:, None] * (first + (other - first) * w - canvas)


def draw_background(rows, cloud, size):
    """rows [N, BACKGROUND], cloud [N, 1, S, S] in 0..1 -> canvas [N, 3, S, S]."""
    x, y = _grid(size, rows.device)
    p = rows[:, :, None, None].unbind(1)
    along = (x - .5) * p[7].cos() + (y - .5) * p[7].sin()
    gradient = (along + .5).clamp(0, 1)
    stripes = ((along * p[8] * 6.28).sin() > 0).float()
    checks = (((x * p[8]).floor() + (y * p[8]).floor()) % 2)
    w = torch.where(p[0] == 1, gradient, torch.where(p[0] == 2, stripes, torch.where(p[0] == 3, checks, cloud[:, 0])))
    w = torch.where(p[0] == 0, torch.zeros_like(w), w)[:, None]
    return rows[:, 1:4, None, None] + (rows[:, 4:7, None, None] - rows[:, 1:4, None, None]) * w


def _dct_matrix(device):
    k = torch.arange(8, dtype=torch.float32, device=device)
    m = torch.cos((2 * k[None] + 1) * k[:, None] * np.pi / 16) * .5
    m[0] *= 2 ** -.5
    return m


def jpeg(image, quality):
    """JPEG's block quantisation without chroma subsampling: image [N, 3, S, S] in 0..1, quality [N] (0 = leave)."""
    n, _, s, _ = image.shape
    device = image.device
    rgb = image.clamp(0, 1) * 255 - 128
    to_ycc = torch.tensor([[.299, .587, .114], [-.1687, -.3313, .5], [.5, -.4187, -.0813]], device=device)
    ycc = torch.einsum("ij,njyx->niyx", to_ycc, rgb)
    blocks = ycc.view(n, 3, s // 8, 8, s // 8, 8).permute(0, 1, 2, 4, 3, 5)
    m = _dct_matrix(device)
    q = quality.clamp(min=5)
    factor = torch.where(q < 50, 50 / q, 2 - q / 50)
    table = torch.tensor(_JPEG_LUMA, dtype=torch.float32, device=device).view(1, 1, 1, 1, 8, 8) * factor.view(n, 1, 1, 1, 1, 1)
    table = table.clamp(min=1)
    coefficients = torch.round((m @ blocks @ m.t()) / table) * table
    ycc = (m.t() @ coefficients @ m).permute(0, 1, 2, 4, 3, 5).reshape(n, 3, s, s)
    back = torch.linalg.inv(to_ycc.cpu()).to(device)
    out = (torch.einsum("ij,njyx->niyx", back, ycc) + 128) / 255
    return torch.where(quality.view(n, 1, 1, 1) > 0, out, image).clamp(0, 1)


def blur(image, weight):
    """Blend with a 5x5 binomial blur; weight [N] in 0..1."""
    n, c, s, _ = image.shape
    kernel = torch.tensor([1., 4., 6., 4., 1.], device=image.device) / 16
    flat = F.pad(image.reshape(n * c, 1, s, s), (2, 2, 2, 2), mode="replicate")
    soft = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1)).view(n, c, s, s)
    return image + weight.view(n, 1, 1, 1) * (soft - image)


class Renderer:
    """Holds the atlas on a device; `compiled` may replace the drawing functions by compiled ones."""

    def __init__(self, device, size=144, compiled=False):
        self.size, self.device = size, device
        self.atlas = torch.from_numpy(world.ATLAS["tiles"].reshape(-1).copy()).to(device)
        self.layer, self.ground = draw_layer, draw_background
        if compiled:
            self.layer = torch.compile(draw_layer, dynamic=False)
            self.ground = torch.compile(draw_background, dynamic=False)

    def nuisance(self, n, allowed, generator, strength=1.):
        """Random (blur, noise, quality, gain, offset) per picture; pictures with allowed=0 stay clean."""
        u = torch.rand(6, n, generator=generator, device=self.device)
        on = allowed * strength
        soft = on * (u[0] - .5).clamp(min=0) * 2
        noise = on * ((u[1] - .5).clamp(min=0) * 2) ** 2 * .09
        quality = on * torch.where(u[2] < .5, torch.zeros_like(u[2]), 25 + (u[2] - .5) * 140)
        gain = 1 + on * (u[3] - .5) * .24 * (u[5] < .5)
        offset = on * (u[4] - .5) * .1 * (u[5] < .5)
        return soft, noise, quality, gain, offset

    @torch.no_grad()
    def __call__(self, instances, backgrounds, generator, strength=1.):
        """instances [N, K, INSTANCE], backgrounds [N, BACKGROUND] on the device -> uint8-valued floats in 0..1."""
        n, size = len(instances), self.size
        cloud = F.interpolate(torch.rand(n, 1, 5, 5, generator=generator, device=self.device), (size, size), mode="bicubic",
                              align_corners=False).clamp(0, 1)
        canvas = self.ground(backgrounds, cloud, size)
        for k in range(instances.shape[1]):
            canvas = self.layer(canvas, instances[:, k].contiguous(), self.atlas, size)
        soft, noise, quality, gain, offset = self.nuisance(n, backgrounds[:, 9], generator, strength)
        canvas = blur(canvas, soft) * gain.view(n, 1, 1, 1) + offset.view(n, 1, 1, 1)
        canvas = canvas + noise.view(n, 1, 1, 1) * torch.randn(canvas.shape, generator=generator, device=self.device)
        canvas = jpeg(canvas, quality)
        return (canvas.clamp(0, 1) * 255).round() / 255


def labels(instances, grid=18):
    """Per-subcell labels from instance centres: (class [N, G, G], colour [N, G, G]) long tensors, 0 = nothing."""
    n, k, _ = instances.shape
    cell = (instances[:, :, 1:3] * grid).floor().clamp(0, grid - 1).long()
    flat = cell[:, :, 1] * grid + cell[:, :, 0]
    shown = instances[:, :, 0] > -2
    out = []
    for column in (19, 20):
        value = torch.where(shown, instances[:, :, column], torch.zeros_like(instances[:, :, column])).long()
        target = torch.zeros(n, grid * grid, dtype=torch.long, device=instances.device)
        out.append(target.scatter_reduce(1, flat, value, "amax").view(n, grid, grid))
    return out
