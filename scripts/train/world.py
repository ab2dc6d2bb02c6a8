"""The small world: what can be in a picture, and how it is laid out.

A picture is a `Picture`: a list of drawing instances (rows of INSTANCE floats that render.py rasterises in
order) and one background row. Coordinates are fractions of the picture's side, y down. Nothing here needs
PyTorch: worker processes build pictures from a `random.Random`, the GPU turns them into pixels.
"""
import colorsys
import math
import os

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ATLAS = np.load(os.path.join(HERE, "data", "atlas.npz"))
SHAPES = [str(s) for s in ATLAS["shapes"]]
ICONS = [str(s) for s in ATLAS["icons"]]
THINGS = SHAPES + ICONS
CHARS = "".join(str(c) for c in ATLAS["chars"])
ADVANCES = ATLAS["advances"].tolist()
N_TRAIN_FONTS, N_FONTS = int(ATLAS["train_fonts"]), len(ATLAS["fonts"])
EM, BASELINE = float(ATLAS["em"]), float(ATLAS["baseline"])
BOX_TILE = -1.0

# instance row: tile, cx, cy, a, b, c, d, sx, sy, r, g, b, texture, r2, g2, b2, frequency, phase, outline, class, colour
INSTANCE, MAX_INSTANCES = 21, 14
# background row: type, r, g, b, r2, g2, b2, angle, frequency, noise allowed
BACKGROUND = 10
N_CLASSES = 1 + len(THINGS) + len(CHARS)     # 0 is "nothing here"; labels of the auxiliary loss

COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray"]
_HSV = {"red": (-9, 7, .78, 1, .68, 1), "orange": (23, 39, .85, 1, .9, 1), "yellow": (50, 60, .72, 1, .9, 1),
        "green": (95, 145, .5, 1, .4, 1), "blue": (207, 241, .65, 1, .52, 1), "purple": (266, 300, .5, 1, .42, .76),
        "pink": (322, 350, .25, .58, .96, 1), "brown": (16, 29, .55, .9, .36, .58), "black": (0, 360, 0, .25, 0, .13),
        "white": (0, 360, 0, .04, .95, 1), "gray": (0, 360, 0, .06, .42, .66)}
_NAMED = {"red": [(255, 0, 0), (220, 20, 60), (200, 0, 0)], "orange": [(255, 165, 0), (255, 140, 0), (255, 120, 0)],
          "yellow": [(255, 255, 0), (255, 215, 0)], "green": [(0, 128, 0), (0, 255, 0), (34, 139, 34), (0, 200, 0)],
          "blue": [(0, 0, 255), (30, 144, 255), (65, 105, 225), (0, 0, 200), (0, 0, 139)],
          "purple": [(128, 0, 128), (138, 43, 226), (148, 0, 211)], "pink": [(255, 192, 203), (255, 105, 180)],
          "brown": [(139, 69, 19), (165, 82, 42), (120, 66, 18)], "black": [(0, 0, 0)], "white": [(255, 255, 255)],
          "gray": [(128, 128, 128), (150, 150, 150)]}
# colour-thing pairs that never appear in training pictures
HELD_OUT_PAIRS = {("purple", "heart"), ("orange", "star"), ("green", "cross"), ("pink", "triangle"), ("blue", "ring"),
                  ("yellow", "diamond"), ("brown", "moon"), ("red", "pentagon"), ("black", "flower"), ("white", "house"),
                  ("gray", "square"), ("orange", "fish"), ("red", "tree"), ("purple", "car")}
SIZES = {"small": (.058, .078), "medium": (.088, .12), "large": (.14, .19), "huge": (.2, .4)}
PATTERNS = ["plain", "striped", "dotted", "checkered"]


class Thing:
    """One object: what it is, its colour, half-size r, centre, rotation and pattern."""
    __slots__ = ("kind", "colour", "r", "x", "y", "turn", "pattern", "rgb", "rgb2", "frequency", "phase", "outline", "border")

    def copy(self):
        twin = Thing()
        for name in Thing.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    @property
    def name(self):
        return self.colour + " " + self.kind


class Picture:
    """Instances (lists of INSTANCE floats), a background row, its colour name or None, and the things in it."""
    __slots__ = ("instances", "background", "ground", "things")

    def __init__(self, instances, background, ground, things=()):
        self.instances, self.background, self.ground, self.things = instances, background, ground, list(things)


def sample_rgb(rng, colour):
    """A shade of a named colour, floats in 0..1."""
    if rng.random() < .3:
        r, g, b = rng.choice(_NAMED[colour])
        return r / 255, g / 255, b / 255
    h0, h1, s0, s1, v0, v1 = _HSV[colour]
    return colorsys.hsv_to_rgb((rng.uniform(h0, h1) % 360) / 360, rng.uniform(s0, s1), rng.uniform(v0, v1))


def distance(a, b):
    """Perceptual-ish distance of two RGB colours (green weighs most)."""
    return math.sqrt(.9 * (a[0] - b[0]) ** 2 + 1.5 * (a[1] - b[1]) ** 2 + .6 * (a[2] - b[2]) ** 2)


def mix(a, b, t):
    return tuple(x + (y - x) * t for x, y in zip(a, b))


def sample_background(rng, plain=None):
    """A background row, its two colours, and the colour's name when it is one plain named colour."""
    u = rng.random()
    if plain or u < .34:
        c = (1., 1., 1.)
        return [0, *c, *c, 0, 0, 0 if plain else rng.random() < .4], (c, c), "white"
    if u < .62:
        name = rng.choice(COLOURS)
        c = sample_rgb(rng, name)
        return [0, *c, *c, 0, 0, 1], (c, c), name
    if u < .74:
        name = None
        v = rng.uniform(.8, 1)
        c = (v * rng.uniform(.93, 1), v * rng.uniform(.93, 1), v * rng.uniform(.93, 1))
        return [0, *c, *c, 0, 0, 1], (c, c), name
    a = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, .6), rng.uniform(.05, 1))
    b = mix(a, colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, .6), rng.uniform(.05, 1)), rng.uniform(.1, .7))
    kind = rng.choice((1, 1, 1, 2, 3, 4))       # gradient, stripes, checks, cloud
    if kind in (2, 3):
        b = mix(a, b, .4)
    return [kind, *a, *b, rng.uniform(0, 6.28), rng.uniform(3, 14), 1], (a, b), None


def visible(rgb, grounds):
    return min(distance(rgb, grounds[0]), distance(rgb, grounds[1]), distance(rgb, mix(*grounds, .5))) > .33


def pick_colour(rng, grounds, kind, held_out, avoid=()):
    """A (name, rgb) that shows on the background and is allowed for this kind of thing; None if none is found."""
    for _ in range(12):
        name = rng.choice(COLOURS)
        if name in avoid or (not held_out and (name, kind) in HELD_OUT_PAIRS):
            continue
        rgb = sample_rgb(rng, name)
        if visible(rgb, grounds):
            return name, rgb
    return None


def paint(rng, thing, rgb, fancy):
    """Choose the pattern, its second colour and the outline of a thing whose main colour is rgb."""
    thing.rgb, thing.rgb2, thing.pattern = rgb, rgb, "plain"
    thing.frequency, thing.phase, thing.outline, thing.border = 0., 0., 0., 0.
    u = rng.random()
    if fancy and u < .22 and thing.r > .08 and thing.colour not in ("black", "white", "gray"):
        thing.pattern = rng.choice(PATTERNS[1:])
        toward = (1, 1, 1) if thing.colour in ("brown", "purple", "blue", "red", "green") and rng.random() < .6 else (0, 0, 0)
        thing.rgb2 = mix(rgb, toward, rng.uniform(.5, .65))
        thing.frequency, thing.phase = rng.uniform(5, 8) / max(thing.r / .12, 1), rng.uniform(0, 6.28)
    elif fancy and u < .32 and thing.kind in SHAPES and thing.kind not in ("ring", "circle") and thing.r > .08:
        thing.outline = rng.uniform(.016, .03)


TURNS = {"square": 12, "diamond": 8, "cross": 12, "moon": 35, "arrow": 12, "house": 10, "tree": 10, "car": 8, "face": 15,
         "fish": 14, "heart": 20, "triangle": 16, "star": 40, "pentagon": 40}


def make_thing(rng, kind, colour, rgb, size=None, fancy=True):
    thing = Thing()
    thing.kind, thing.colour = kind, colour
    low, high = SIZES[size or rng.choice(("small", "medium", "medium", "large"))]
    thing.r = rng.uniform(low, high) if kind in SHAPES else max(rng.uniform(low, high), .085)
    turn = TURNS.get(kind, 180)
    thing.turn = math.radians(rng.uniform(-turn, turn)) if rng.random() < .6 else 0.
    paint(rng, thing, rgb, fancy)
    return thing


def place_grid(rng, things):
    """Centres in a row, a column or a grid, as people line things up; often of one size."""
    n = len(things)
    shape = rng.choice([(1, n), (n, 1), (2, (n + 1) // 2), ((n + 1) // 2, 2)] if n < 6 else [(2, (n + 1) // 2), ((n + 1) // 2, 2), (3, 3)])
    height, width = 1 / shape[0], 1 / shape[1]
    cells = rng.sample([(i, j) for i in range(shape[0]) for j in range(shape[1])], n) if rng.random() < .3 else \
        [(i, j) for i in range(shape[0]) for j in range(shape[1])][:n]
    most = min(height, width) * .46
    if most < .058:
        return False
    size = rng.uniform(max(.058, most * .5), most) if rng.random() < .7 else None
    for thing, (i, j) in zip(things, cells):
        thing.r = min(size or thing.r, most)
        slack_x, slack_y = width / 2 - thing.r, height / 2 - thing.r
        thing.x = (j + .5) * width + rng.uniform(-.2, .2) * max(slack_x, 0)
        thing.y = (i + .5) * height + rng.uniform(-.2, .2) * max(slack_y, 0)
    return True


def place(rng, things, tries=60, gap=.012):
    """Give every thing a centre so that none overlap; False if they do not fit."""
    done = []
    for thing in sorted(things, key=lambda t: -t.r):
        for _ in range(tries):
            m = thing.r * 1.02
            x, y = rng.uniform(m, 1 - m), rng.uniform(m, 1 - m)
            if all((x - o.x) ** 2 + (y - o.y) ** 2 > ((thing.r + o.r) * 1.03 + gap) ** 2 for o in done):
                thing.x, thing.y = x, y
                done.append(thing)
                break
        else:
            return False
    return True


def tile_row(tile, x, y, sx, sy, turn, rgb, texture=0, rgb2=(0, 0, 0), frequency=0., phase=0., outline=0., label=0, colour=0):
    """An instance row; sx, sy are half-extents of the tile."""
    c, s = math.cos(turn), math.sin(turn)
    return [tile, x, y, c / sx, s / sx, -s / sy, c / sy, sx, sy, *rgb, texture, *rgb2, frequency, phase, outline, label, colour]


def thing_row(t, stretch=1.):
    index = THINGS.index(t.kind)
    half = t.r / .8
    return tile_row(index, t.x, t.y, half * stretch, half / stretch, t.turn, t.rgb, PATTERNS.index(t.pattern), t.rgb2,
                    t.frequency, t.phase, t.outline, 1 + index, 1 + COLOURS.index(t.colour))


def box_row(x, y, half_w, half_h, rgb, turn=0., label=0, colour=0):
    return tile_row(BOX_TILE, x, y, half_w, half_h, turn, rgb, label=label, colour=colour)


def sample_things(rng, count, held_out, grounds, repeat=0., fancy=True, kinds=None, distinct=False, size=None):
    """`count` things; with probability `repeat` each copies the kind and/or colour of an earlier one."""
    things = []
    kinds = kinds or (THINGS if rng.random() < .3 else SHAPES)
    for _ in range(count * 3):
        if len(things) == count:
            return things
        kind, colour = rng.choice(kinds), None
        if things and rng.random() < repeat:
            earlier = rng.choice(things)
            kind = earlier.kind
            if rng.random() < .6:
                colour = (earlier.colour, sample_rgb(rng, earlier.colour))
        elif held_out and rng.random() < .25:
            name, kind = rng.choice(sorted(HELD_OUT_PAIRS))
            colour = (name, sample_rgb(rng, name))
        colour = colour or pick_colour(rng, grounds, kind, held_out)
        if not colour or not visible(colour[1], grounds):
            continue
        if distinct and any(t.kind == kind and t.colour == colour[0] for t in things):
            continue
        things.append(make_thing(rng, kind, *colour, size=size, fancy=fancy))
    return things if len(things) == count else None


def scene(rng, count, held_out=False, repeat=0., fancy=None, kinds=None, distinct=False, size=None, plain=None):
    """A picture of `count` things that do not overlap."""
    fancy = rng.random() < .75 if fancy is None else fancy
    while True:
        if plain is None:
            plain_now = not fancy and rng.random() < .5
        else:
            plain_now = plain
        background, grounds, ground = sample_background(rng, plain_now)
        size_now = size or (rng.choice(("small", "medium", None, "large")) if count <= 3 else
                            rng.choice(("small", "medium", None)) if count <= 5 else rng.choice(("small", "small", None)))
        things = sample_things(rng, count, held_out, grounds, repeat, fancy, kinds, distinct, size_now)
        if not things:
            continue
        if count == 1 and not size and rng.random() < .2:
            things[0].r = rng.uniform(*SIZES["huge"])
        if place_grid(rng, things) if count > 1 and rng.random() < .16 else place(rng, things):
            if fancy is not True and count <= 6 and rng.random() < .12:
                border = rng.uniform(.004, .009)
                for thing in things:
                    thing.border = border if thing.colour not in ("black", "gray") and thing.kind in SHAPES else 0.
            return draw(rng, things, background, ground)


def draw(rng, things, background, ground, stretch=None):
    stretch = stretch or (rng.uniform(.77, 1.28) if rng.random() < .35 else 1.)
    rows = [thing_row(t, stretch) for t in things]
    for t in things:
        if t.border:                      # a dark line along the edge, as drawing programs make it
            edge = thing_row(t, stretch)
            edge[9:13] = [0., 0., 0., 0]
            edge[18:21] = [t.border, 0, 0]
            rows.append(edge)
    return Picture(rows, background, ground, things)


def text_rows(rng, text, font, x, y, em, rgb, turn=0., spacing=1., wide=1.):
    """Glyph rows of one line of text centred on x, y (its visual middle), em as a fraction of the side."""
    half = em / EM / 2
    advances = [ADVANCES[font][CHARS.index(c)] * em * spacing * wide for c in text]
    along = -sum(advances) / 2
    cos, sin = math.cos(turn), math.sin(turn)
    raise_by = (BASELINE - .5) * 2 * half - .35 * em      # baseline offset so that x-height letters sit in the middle
    rows = []
    for char, advance in zip(text, advances):
        u, v = along + advance / 2, -raise_by
        rows.append(tile_row(len(THINGS) + font * len(CHARS) + CHARS.index(char), x + u * cos - v * sin, y + u * sin + v * cos,
                             half * wide, half, turn, rgb, label=1 + len(THINGS) + CHARS.index(char)))
        along += advance
    return rows


def text_width(text, font, spacing=1.):
    return sum(ADVANCES[font][CHARS.index(c)] for c in text) * spacing


def pick_font(rng, held_out):
    return rng.randrange(N_TRAIN_FONTS, N_FONTS) if held_out else rng.randrange(N_TRAIN_FONTS)


def text_picture(rng, text, held_out=False, plain=None, companion=False):
    """A word or number, sometimes on a plate, sometimes with one thing beside it."""
    font = pick_font(rng, held_out)
    spacing = rng.uniform(1., 1.18) if rng.random() < .4 else 1.
    wide = rng.uniform(.74, 1.25) if rng.random() < .35 else 1.       # pictures that are not square get squeezed
    width = text_width(text, font, spacing) * wide
    while True:
        background, grounds, ground = sample_background(rng, plain)
        biggest = min(.86 / max(width, .5), .62 if len(text) > 1 else .95)
        em = rng.uniform(min(.19, biggest), biggest) if rng.random() < .7 else rng.uniform(.19, min(.3, biggest))
        em = max(min(em, biggest), .15)
        turn = math.radians(rng.uniform(-10, 10)) if rng.random() < .35 else 0.
        half_w, half_h = width * em / 2 + .01, em * .52
        limit_y = .5 if companion else .98
        if half_h * 2 > limit_y or half_w * 2 > .98:
            continue
        x = rng.uniform(half_w, 1 - half_w)
        y = rng.uniform(half_h, limit_y - half_h)
        rows, things, plate_grounds = [], [], grounds
        if rng.random() < .2:
            name = rng.choice(COLOURS)
            rgb = sample_rgb(rng, name)
            plate_grounds = (rgb, rgb)
            rows.append(box_row(x, y, min(half_w + .03, .6), half_h + .01, rgb, turn))
        ink = (0., 0., 0.) if rng.random() < .35 else sample_rgb(rng, rng.choice(COLOURS))
        if not visible(ink, plate_grounds):
            continue
        rows += text_rows(rng, text, font, x, y, em, ink, turn, spacing, wide)
        if companion:
            colour = pick_colour(rng, grounds, "circle", False)
            kind = rng.choice(SHAPES)
            if not colour or (not held_out and (colour[0], kind) in HELD_OUT_PAIRS):
                continue
            thing = make_thing(rng, kind, *colour, size=rng.choice(("medium", "large")))
            thing.x, thing.y = rng.uniform(thing.r, 1 - thing.r), rng.uniform(.56 + thing.r, .99 - thing.r)
            if thing.y - thing.r < y + half_h + .02:
                continue
            things, rows = [thing], rows + [thing_row(thing)]
        return Picture(rows, background, ground, things)


def bar_picture(rng, held_out=False):
    """A bar chart: returns (picture, [(colour, height)]) with heights at least .09 apart."""
    while True:
        background, grounds, ground = sample_background(rng, rng.random() < .5)
        n = rng.randint(2, 5)
        heights = [rng.uniform(.12, .8) for _ in range(n)]
        ordered = sorted(heights)
        if any(b - a < .085 for a, b in zip(ordered, ordered[1:])):
            continue
        colours = []
        for _ in range(n):
            pick = pick_colour(rng, grounds, "bar", True, [c for c, _ in colours])
            if pick:
                colours.append(pick)
        ink = (0, 0, 0) if visible((0, 0, 0), grounds) else (1, 1, 1)
        if len(colours) < n or not visible(ink, grounds):
            continue
        rows = [box_row(.1, .5, .006, .44, ink), box_row(.53, .93, .44, .006, ink)]
        width = .8 / n
        for i, ((name, rgb), h) in enumerate(zip(colours, heights)):
            rows.append(box_row(.13 + width * (i + .5), .925 - h / 2, width * rng.uniform(.3, .4), h / 2, rgb,
                                colour=1 + COLOURS.index(name)))
        return Picture(rows, background, ground), [(c, h) for (c, _), h in zip(colours, heights)]


def line_picture(rng, held_out=False):
    """A line chart: returns (picture, 'up' | 'down' | 'flat', colour)."""
    while True:
        background, grounds, ground = sample_background(rng, rng.random() < .5)
        trend = rng.choice(("up", "down", "flat"))
        n = rng.randint(3, 6)
        slope = {"up": rng.uniform(.3, .7), "down": -rng.uniform(.3, .7), "flat": 0.}[trend]
        wobble = .05 if trend != "flat" else .02
        points = [(.14 + .78 * i / (n - 1), .5 - slope * (i / (n - 1) - .5) + rng.uniform(-wobble, wobble)) for i in range(n)]
        shift = rng.uniform(-.1, .1)
        points = [(x, min(max(y + shift, .06), .9)) for x, y in points]
        pick = pick_colour(rng, grounds, "line", True)
        ink = (0, 0, 0) if visible((0, 0, 0), grounds) else (1, 1, 1)
        if not pick or not visible(ink, grounds):
            continue
        rows = [box_row(.1, .5, .006, .44, ink), box_row(.53, .93, .44, .006, ink)]
        for (x0, y0), (x1, y1) in zip(points, points[1:]):
            rows.append(box_row((x0 + x1) / 2, (y0 + y1) / 2, math.hypot(x1 - x0, y1 - y0) / 2 + .006, .012, pick[1],
                                math.atan2(y1 - y0, x1 - x0), colour=1 + COLOURS.index(pick[0])))
        return Picture(rows, background, ground), trend, pick[0]


def empty_picture(rng):
    """A background with nothing on it."""
    background, _, ground = sample_background(rng)
    return Picture([], background, ground)


def region(thing):
    """The ninth of the picture a thing's centre lies in ('top left', 'center', ...), or None near a border."""
    words = []
    for value, names in ((thing.y, ("top", "", "bottom")), (thing.x, ("left", "", "right"))):
        if min(abs(value - 1 / 3), abs(value - 2 / 3)) < .035:
            return None
        words.append(names[0 if value < 1 / 3 else 1 if value < 2 / 3 else 2])
    return " ".join(w for w in words if w) or "center"
