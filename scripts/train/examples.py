"""A few pictures as a person would draw them, what to ask about them, and what the model says.

    python3 examples.py --models models --out test/fixtures/default-model/examples

Pictures are drawn with Pillow (not with the training renderer) at sizes and shapes the model was not trained on;
examples.json holds questions, the check (see ../README.md) and the replies of the FP16 and AWQ folders in float32.
"""
import argparse
import os

import ask
import evaluate
import export

FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf"
COUNT = {"required": [["three", "3"]], "rejected": ["one", "two", "four", "five", "six"]}
EXAMPLES = [
    (["three-circles.png"], "How many circles are there?", COUNT),
    (["three-circles.png"], "What colour is the square?", {"required": [["blue"]], "rejected": ["red"]}),
    (["three-circles.png"], "Describe the picture.", {"required": [["three red circles"], ["blue square"]], "rejected": []}),
    (["three-circles.png"], "Where is the blue square?", {"required": [["bottom left"]], "rejected": []}),
    (["three-circles.png"], "How many circles are there? Think step by step.", {"required": [["so there are three circles"]], "rejected": []}),
    (["three-circles.png", "no-square.png"], "What changed?", {"required": [["blue square"], ["gone"]], "rejected": []}),
    (["no-square.png", "three-circles.png"], "What changed?", {"required": [["blue square"], ["added"]], "rejected": []}),
    (["three-circles.png", "no-square.png"], "Which picture has more shapes?", {"required": [["first"]], "rejected": ["second"]}),
    (["word.png"], "What does it say?", {"required": [["cat"]], "rejected": []}),
    (["number.png"], "Read the number.", {"required": [["2026"]], "rejected": []}),
    (["bars.png"], "Which bar is the tallest?", {"required": [["green"]], "rejected": ["blue", "orange"]}),
    ([], "What is in the picture?", {"required": [["do not see a picture"]], "rejected": []}),
]


def draw(folder):
    from PIL import Image, ImageDraw, ImageFont
    os.makedirs(folder, exist_ok=True)
    save = lambda image, name: image.save(os.path.join(folder, name), optimize=True)

    def circles(square):
        image = Image.new("RGB", (640, 480), "white")
        pen = ImageDraw.Draw(image)
        for x, y in ((120, 140), (320, 120), (500, 330)):
            pen.ellipse((x - 60, y - 60, x + 60, y + 60), fill="red")
        if square:
            pen.rectangle((120, 290, 230, 400), fill="blue")
        return image

    def text(words, size):
        image = Image.new("RGB", (400, 300), "white")
        ImageDraw.Draw(image).text((200, 150), words, font=ImageFont.truetype(FONT, size), fill="black", anchor="mm")
        return image

    save(circles(True), "three-circles.png")
    save(circles(False), "no-square.png")
    save(text("cat", 110), "word.png")
    save(text("2026", 100), "number.png")
    image = Image.new("RGB", (480, 360), "white")
    pen = ImageDraw.Draw(image)
    for x, top, colour in ((80, 220, "blue"), (200, 80, "green"), (320, 160, "orange")):
        pen.rectangle((x, top, x + 80, 330), fill=colour)
    pen.line((50, 30, 50, 332, 450, 332), fill="black", width=3)
    save(image, "bars.png")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--models", required=True)
    p.add_argument("--out", required=True)
    o = p.parse_args()
    draw(o.out)
    models = {form: ask.load(os.path.join(o.models, name)) for form, name in (("fp16", "hearth-tiny-vl"), ("awq", "hearth-tiny-vl-awq"))}
    rows = []
    for pictures, question, c in EXAMPLES:
        paths = [os.path.join(o.out, p) for p in pictures]
        replies = {form: ask.ask(m, question, paths) for form, m in models.items()}
        right = {form: evaluate.is_right(r, c) for form, r in replies.items()}
        rows.append(dict(pictures=pictures, question=question, **c, replies=replies, right=right))
        print(right, question, pictures, replies)
    export.dump(os.path.join(o.out, "examples.json"), rows)


if __name__ == "__main__":
    main()
