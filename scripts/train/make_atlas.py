"""Render the tile atlas: one signed-distance tile per shape, icon and glyph.

Runs on a machine with Debian's open fonts (python3-pil, python3-numpy, python3-scipy); its output,
data/atlas.npz, is committed, because the GPU machine has no fonts. Licences: data/LICENCES.md.

Each tile is TILE x TILE uint8: 128 + 127 * distance / SPREAD, distance in tile pixels, negative inside.
Shapes fill [-0.8, 0.8] of the tile; glyphs have EM of the tile as their em and share one baseline.
"""
import math
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

TILE, SPREAD, SCALE = 40, 6.0, 8
EM, BASELINE = 0.62, 0.66
CHARS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
HERE = os.path.dirname(os.path.abspath(__file__))
T = "/usr/share/fonts/truetype/"
O = "/usr/share/fonts/opentype/"
TRAIN_FONTS = [
    T + "liberation2/LiberationSans-Regular.ttf", T + "liberation2/LiberationSans-Bold.ttf",
    T + "liberation2/LiberationSerif-Regular.ttf", T + "liberation2/LiberationSerif-Bold.ttf",
    T + "liberation2/LiberationMono-Bold.ttf", T + "liberation2/LiberationSans-Italic.ttf",
    T + "dejavu/DejaVuSans.ttf", T + "dejavu/DejaVuSans-Bold.ttf", T + "dejavu/DejaVuSerif.ttf",
    T + "dejavu/DejaVuSerif-Bold.ttf", T + "dejavu/DejaVuSansMono.ttf", T + "dejavu/DejaVuSansCondensed-Bold.ttf",
    T + "open-sans/OpenSans-Semibold.ttf", T + "open-sans/OpenSans-ExtraBold.ttf",
    T + "roboto/unhinted/RobotoTTF/Roboto-Regular.ttf", T + "roboto/unhinted/RobotoTTF/Roboto-Bold.ttf",
    T + "roboto/unhinted/RobotoCondensed-Bold.ttf", O + "roboto/slab/RobotoSlab-Bold.otf",
    O + "comic-neue/ComicNeue-Bold.otf", T + "quicksand/Quicksand-Bold.ttf", T + "comfortaa/Comfortaa-Bold.ttf",
    O + "inter/Inter-SemiBold.otf", T + "hack/Hack-Bold.ttf", T + "crosextra/Caladea-Regular.ttf",
    T + "crosextra/Caladea-Bold.ttf", O + "dosis/Dosis-Bold.otf", T + "lato/Lato-BoldItalic.ttf", T + "lato/Lato-Bold.ttf",
]
HELD_OUT_FONTS = [
    O + "cantarell/Cantarell-Bold.otf", T + "firacode/FiraCode-SemiBold.ttf", T + "crosextra/Carlito-Bold.ttf",
    O + "inter/InterDisplay-ExtraBold.otf", O + "roboto/slab/RobotoSlab-Regular.otf",
    T + "dejavu/DejaVuSerifCondensed-Bold.ttf",
]
SHAPES = ["circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring", "moon", "pentagon"]
ICONS = ["house", "tree", "sun", "flower", "fish", "arrow", "face", "car"]


def star_points(n, outer, inner):
    return [((outer if i % 2 == 0 else inner) * math.sin(math.pi * i / n),
             -(outer if i % 2 == 0 else inner) * math.cos(math.pi * i / n)) for i in range(2 * n)]


def draw_shape(name, size):
    """A binary picture of one shape; coordinates run over [-1, 1], y down, and the shape fills 0.8 of it."""
    image = Image.new("L", (size, size), 0)
    pen = ImageDraw.Draw(image)
    to_px = lambda p: ((p[0] * 0.8 + 1) * size / 2, (p[1] * 0.8 + 1) * size / 2)
    poly = lambda points, fill=255: pen.polygon([to_px(p) for p in points], fill=fill)
    oval = lambda x, y, rx, ry, fill=255: pen.ellipse([to_px((x - rx, y - ry)), to_px((x + rx, y + ry))], fill=fill)
    box = lambda x0, y0, x1, y1, fill=255: pen.rectangle([to_px((x0, y0)), to_px((x1, y1))], fill=fill)
    if name == "circle":
        oval(0, 0, 0.95, 0.95)
    elif name == "square":
        box(-0.85, -0.85, 0.85, 0.85)
    elif name == "triangle":
        poly([(0, -0.95), (1.0, 0.8), (-1.0, 0.8)])
    elif name == "star":
        poly(star_points(5, 1.05, 0.44))
    elif name == "heart":
        angles = np.linspace(0, 2 * math.pi, 200)
        poly([(16 * math.sin(a) ** 3 / 17, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a)
                                             - math.cos(4 * a)) / 17 - 0.08) for a in angles])
    elif name == "diamond":
        poly([(0, -1.05), (0.68, 0), (0, 1.05), (-0.68, 0)])
    elif name == "cross":
        box(-0.3, -0.95, 0.3, 0.95), box(-0.95, -0.3, 0.95, 0.3)
    elif name == "ring":
        oval(0, 0, 0.98, 0.98), oval(0, 0, 0.55, 0.55, 0)
    elif name == "moon":
        oval(0, 0, 0.98, 0.98), oval(0.48, -0.08, 0.8, 0.8, 0)
    elif name == "pentagon":
        poly([(math.sin(2 * math.pi * i / 5), -math.cos(2 * math.pi * i / 5)) for i in range(5)])
    elif name == "house":
        poly([(0, -1.0), (1.0, -0.1), (-1.0, -0.1)]), box(-0.72, -0.1, 0.72, 0.95)
        box(-0.2, 0.35, 0.2, 1.0, 0), box(0.36, 0.12, 0.58, 0.34, 0), box(-0.58, 0.12, -0.36, 0.34, 0)
    elif name == "tree":
        poly([(0, -1.05), (0.6, -0.35), (-0.6, -0.35)]), poly([(0, -0.7), (0.75, 0.1), (-0.75, 0.1)])
        poly([(0, -0.3), (0.9, 0.6), (-0.9, 0.6)]), box(-0.17, 0.6, 0.17, 1.05)
    elif name == "sun":
        oval(0, 0, 0.5, 0.5)
        for i in range(8):
            a = 2 * math.pi * i / 8
            tip, left, right = a, a - 0.17, a + 0.17
            poly([(1.05 * math.cos(tip), 1.05 * math.sin(tip)), (0.62 * math.cos(left), 0.62 * math.sin(left)),
                  (0.62 * math.cos(right), 0.62 * math.sin(right))])
    elif name == "flower":
        for i in range(6):
            a = 2 * math.pi * i / 6
            oval(0.58 * math.cos(a), 0.58 * math.sin(a), 0.36, 0.36)
        oval(0, 0, 0.42, 0.42), oval(0, 0, 0.24, 0.24, 0)
    elif name == "fish":
        oval(-0.2, 0, 0.78, 0.5), poly([(0.35, 0), (1.0, -0.55), (1.0, 0.55)]), oval(-0.6, -0.12, 0.11, 0.11, 0)
    elif name == "arrow":
        box(-0.95, -0.24, 0.15, 0.24), poly([(0.1, -0.72), (1.0, 0), (0.1, 0.72)])
    elif name == "face":
        oval(0, 0, 0.98, 0.98), oval(-0.36, -0.28, 0.15, 0.17, 0), oval(0.36, -0.28, 0.15, 0.17, 0)
        pen.arc([to_px((-0.55, -0.45)), to_px((0.55, 0.6))], 20, 160, fill=0, width=int(size * 0.06))
    elif name == "car":
        poly([(-0.6, -0.1), (-0.38, -0.6), (0.35, -0.6), (0.65, -0.1)]), box(-1.0, -0.1, 1.0, 0.38)
        box(-0.02, -0.45, 0.04, -0.1, 0)
        for x in (-0.55, 0.55):
            oval(x, 0.4, 0.3, 0.3, 0), oval(x, 0.4, 0.23, 0.23)
    return np.asarray(image) > 127


def draw_glyph(font_path, char, size):
    """A binary picture of one glyph centred on its advance, and that advance in ems."""
    font = ImageFont.truetype(font_path, int(size * EM))
    advance = font.getlength(char)
    image = Image.new("L", (size, size), 0)
    ImageDraw.Draw(image).text((size / 2 - advance / 2, size * BASELINE), char, font=font, fill=255, anchor="ls")
    return np.asarray(image) > 127, advance / (size * EM)


def to_sdf(mask):
    """uint8 distance tile of a binary picture SCALE times its size."""
    distance = (distance_transform_edt(~mask) - distance_transform_edt(mask)) / SCALE
    distance = distance.reshape(TILE, SCALE, TILE, SCALE).mean((1, 3))
    return np.clip(np.round(128 + 127 * distance / SPREAD), 0, 255).astype(np.uint8)


def main():
    size = TILE * SCALE
    tiles = [to_sdf(draw_shape(name, size)) for name in SHAPES + ICONS]
    fonts = TRAIN_FONTS + HELD_OUT_FONTS
    advances = np.zeros((len(fonts), len(CHARS)), np.float32)
    for i, path in enumerate(fonts):
        for j, char in enumerate(CHARS):
            mask, advances[i, j] = draw_glyph(path, char, size)
            tiles.append(to_sdf(mask))
    np.savez_compressed(os.path.join(HERE, "data", "atlas.npz"), tiles=np.stack(tiles), advances=advances,
                        shapes=np.array(SHAPES), icons=np.array(ICONS), chars=np.array(list(CHARS)),
                        fonts=np.array([os.path.basename(p) for p in fonts]), train_fonts=np.array(len(TRAIN_FONTS)),
                        spread=np.array(SPREAD), em=np.array(EM), baseline=np.array(BASELINE))


if __name__ == "__main__":
    main()
