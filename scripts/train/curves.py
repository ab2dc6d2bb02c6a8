"""The training curves as one SVG: python3 curves.py train-log.jsonl OUT.svg (standard library only)."""
import json
import math
import sys

SERIES = (("answer", "loss on answers", "#c0392b"), ("aux", "auxiliary loss", "#2471a3"))
LEFT, TOP, WIDTH, HEIGHT = 60, 30, 620, 260


def path(rows, key, low, high):
    last = rows[-1]["tokens"]
    points = []
    for row in rows:
        y = (math.log(row[key]) - low) / (high - low)
        points.append(f"{LEFT + WIDTH * row['tokens'] / last:.1f},{TOP + HEIGHT * (1 - y):.1f}")
    return " ".join(points)


def draw(rows):
    values = [row[key] for row in rows for key, _, _ in SERIES]
    low, high = math.log(min(values)), math.log(max(values))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 30}" height="{TOP + HEIGHT + 60}" font-family="sans-serif" font-size="12">',
           f'<rect width="100%" height="100%" fill="white"/><rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>']
    for tick in (.02, .05, .1, .2, .5, 1, 2, 5):
        if low <= math.log(tick) <= high:
            y = TOP + HEIGHT * (1 - (math.log(tick) - low) / (high - low))
            out.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                       f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    for i, (key, label, colour) in enumerate(SERIES):
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path(rows, key, low, high)}"/>'
                   f'<text x="{LEFT + WIDTH - 150}" y="{TOP + 20 + 18 * i}" fill="{colour}">{label}</text>')
    last = rows[-1]["tokens"]
    for share in (0, .25, .5, .75, 1):
        out.append(f'<text x="{LEFT + WIDTH * share:.0f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{last * share / 1e6:.0f}</text>')
    out.append(f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 40}" text-anchor="middle">million tokens in rows (pictures included)</text></svg>')
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        rows = [json.loads(line) for line in file]
    with open(sys.argv[2], "w") as file:
        file.write(draw(rows))
