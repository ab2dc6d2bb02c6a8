"""Questions about words, numbers and charts."""
import re

import phrases as P
import world
from conversation import Document, a, brief, check, join, number_check, others, there_are, worded
from scenes import Scene, ask_colour, ask_ground, ask_shape, ask_unknowable
from world import COLOURS


class Words:
    """The word list, split into training and held-out words."""

    def __init__(self, train, held_out, pieces=()):
        self.train, self.held_out, self.secret = train, held_out, set(held_out)
        self.pieces = [p for p in pieces if re.fullmatch("[a-z]{2,5}", p) and p not in self.secret]

    def invented(self, rng):
        """A made-up word; half are glued from the tokenizer's pieces, so that every piece is met in pictures."""
        if not self.pieces or rng.random() < .4:
            return pseudo_word(rng)
        word = rng.choice(self.pieces)
        if len(word) < 5 and rng.random() < .8:
            other = rng.choice(self.pieces) if rng.random() < .6 else rng.choice("abcdefghijklmnopqrstuvwxyz")
            word = word + other if rng.random() < .5 else other + word
        return word[:5]

    def sample(self, rng, held_out):
        if held_out:
            word = rng.choice(self.held_out)
        elif rng.random() < .45:
            word = rng.choice(self.train)
        else:
            word = self.invented(rng)
            while word in self.secret:
                word = self.invented(rng)
        u = rng.random()
        return word if u < .5 else word.upper() if u < .82 else word.capitalize()


def pseudo_word(rng):
    n = rng.choice((1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5))
    if rng.random() < .45:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(n))
    first = rng.random() < .3
    return "".join(rng.choice("aeiou" if (i % 2 == 0) == first else "bcdfghjklmnprstvwyz") for i in range(n))


def sample_number(rng):
    n = rng.choice((1, 1, 1, 2, 2, 3, 4))
    return "".join(rng.choice("0123456789") for _ in range(n)) if rng.random() < .7 or n == 1 else str(rng.randrange(10 ** (n - 1), 10 ** n))


def read_turn(rng, text):
    if text.isdigit():
        pool = P.READ_DIGIT if len(text) == 1 else P.READ_NUMBER
        return brief(rng, (worded(rng, pool), f"It says {text}.", check("digit", text)), text)
    return brief(rng, (worded(rng, P.READ_WORD), f'It says "{text}".', check("word", text.lower())), text)


def text_branches(rng, text, picture):
    branches = [[read_turn(rng, text)]]
    if not text.isdigit():
        extra = [(worded(rng, P.LETTERS), f"The word has {P.NUMBER[len(text)]} letter{'s' if len(text) > 1 else ''}.", number_check("spell", len(text))),
                 (worded(rng, P.FIRST_LETTER), f'The first letter is "{text[0]}".', check("spell", text[0].lower())),
                 (worded(rng, P.LAST_LETTER), f'The last letter is "{text[-1]}".', check("spell", text[-1].lower())),
                 (worded(rng, P.SPELL), "-".join(text) + ".", check("spell", " ".join(text.lower())))]
        branches += [[t] for t in rng.sample(extra, rng.randint(1, 3))]
    if rng.random() < .6:
        branches.append([read_turn(rng, text)])
    s = Scene(picture)
    if s.things:
        branches += [[t] for t in (rng.choice((ask_colour, ask_shape))(rng, s),) if t]
    if picture.ground and rng.random() < .15:
        branches.append([ask_ground(rng, s)])
    if rng.random() < .05:
        branches.append([ask_unknowable(rng, s)])
    if rng.random() < .15:
        what = "number" if text.isdigit() else "word"
        noun, said = a(what), f'the {what} {text}' if text.isdigit() else f'the {what} "{text}"'
        branches.append([(worded(rng, P.WHAT_IT + P.DESCRIBE), f"I see {said}.", check(("digit" if what == "number" else what), text.lower()))])
    return branches


def text_document(rng, words, held_out=False):
    text = sample_number(rng) if rng.random() < .3 else words.sample(rng, held_out)
    picture = world.text_picture(rng, text, held_out, companion=rng.random() < .15)
    return Document([picture], [0], text_branches(rng, text, picture))


def bar_branches(rng, bars):
    n, colours = len(bars), [c for c, _ in bars]
    ordered = sorted(bars, key=lambda b: b[1])
    out = [(worded(rng, P.BAR_COUNT), there_are(n, "bar"), number_check("plot", n))]
    word, best = rng.choice((("tallest", ordered[-1]), ("highest", ordered[-1]), ("shortest", ordered[0]), ("lowest", ordered[0])))
    out.append((worded(rng, P.BAR_TALLEST, r=word), f"The {best[0]} bar is the {word}.", check("plot", best[0], rejected=others(best[0], colours))))
    x, y = rng.sample(bars, 2)
    word, sign = rng.choice((("taller", 1), ("higher", 1), ("shorter", -1)))
    winner, loser = (x, y) if (x[1] > y[1]) == (sign > 0) else (y, x)
    out.append((worded(rng, P.BAR_OR, r=word, a=x[0], b=y[0]), f"The {winner[0]} bar is {word}.", check("plot", winner[0], rejected=[loser[0]])))
    out.append((worded(rng, P.CHART), "It is a bar chart.", check("plot", "bar")))
    out.append((worded(rng, P.DESCRIBE), f"I see a bar chart with {P.NUMBER[n]} bars: {join(colours)}.", check("plot", *colours)))
    return [[t] for t in rng.sample(out, rng.randint(3, 5))]


def line_branches(rng, trend, colour):
    said = {"up": "The line goes up.", "down": "The line goes down.", "flat": "The line stays flat."}[trend]
    out = [(worded(rng, P.LINE_TREND), said, check("plot", trend, rejected=others(trend, ("up", "down", "flat")))),
           (worded(rng, P.LINE_COLOUR), f"The line is {colour}.", check("plot", colour, rejected=others(colour, COLOURS))),
           (worded(rng, P.CHART), "It is a line chart.", check("plot", "line"))]
    return [[t] for t in rng.sample(out, rng.randint(2, 3))]


def plot_document(rng, held_out=False):
    if rng.random() < .65:
        picture, bars = world.bar_picture(rng, held_out)
        return Document([picture], [0], bar_branches(rng, bars))
    picture, trend, colour = world.line_picture(rng, held_out)
    return Document([picture], [0], line_branches(rng, trend, colour))
