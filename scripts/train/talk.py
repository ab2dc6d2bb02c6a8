"""Conversations about pictures: every question comes with its right answer and the check an evaluator applies.

A `Turn` is (question, answer, check). check = {kind, required: [[alternatives], ...], rejected: [words]}: a reply is
right when, lower-cased and with punctuation turned to spaces, it holds one alternative of every `required` list as whole
words and none of `rejected`. A `Document` is what one row of training holds: a shared head (system prompt, pictures)
and branches, each a list of turns that do not see one another's branch.
"""
import random
import re

import phrases as P
import stories
import world
from world import COLOURS, PATTERNS, SHAPES, THINGS

ORDINAL = ["first", "second", "third"]
SIDES = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
FORMS = {"left of": ["left of", "to the left of"], "right of": ["right of", "to the right of"], "above": ["above"],
         "below": ["below", "under"]}


class Document:
    """system: str or None; head: pictures (int index) and texts of the first user message; branches: lists of turns;
    demonstrations: turns whose answers carry no loss at the start of every branch."""
    __slots__ = ("system", "pictures", "head", "branches", "raw", "demonstrations")

    def __init__(self, pictures=(), head=(), branches=(), system=None, raw=None, demonstrations=0):
        self.pictures, self.head, self.branches = list(pictures), list(head), list(branches)
        self.system, self.raw, self.demonstrations = system, raw, demonstrations


# ---- small helpers -------------------------------------------------------------------------------------------------

def check(kind, *required, rejected=()):
    return {"kind": kind, "required": [[r] if isinstance(r, str) else list(r) for r in required], "rejected": list(rejected)}


def number_check(kind, n, extra=()):
    words = [[P.NUMBER[n], str(n)] if n else ["no", "zero", "0", "none"]]
    others = [w for i in range(1, 9) if i != n for w in (P.NUMBER[i], str(i))]
    return {"kind": kind, "required": words + [list(e) for e in extra], "rejected": others}


def others(name, pool):
    return [p for p in pool if p != name]


def a(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun):
    if noun in ("fish",):
        return noun
    return noun + ("es" if noun.endswith(("s", "x", "sh", "ch")) else "s")


def counted(n, noun):
    return (a(noun) if n == 1 else P.NUMBER[n] + " " + plural(noun))


def join(items):
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def there_are(n, noun):
    """noun may hold a colour: 'red circle'."""
    return f"There is one {noun}." if n == 1 else f"There are {P.NUMBER[n]} {plural(noun)}."


def typo(rng, text):
    i = rng.randrange(1, max(len(text) - 2, 2))
    return text[:i] + text[i + 1] + text[i] + text[i + 2:] if rng.random() < .5 else text[:i] + text[i + 1:]


def worded(rng, pool, **slots):
    """One question of a pool with its slots filled, and with the small sloppiness people type."""
    text = rng.choice(pool).format(**slots)
    if rng.random() < .55:
        text = text.replace("colour", "color").replace("Colour", "Color")
    if "gray" in text and rng.random() < .35:
        text = text.replace("gray", "grey")
    u = rng.random()
    if u < .16:
        text = text.lower()
    if u < .22 or u > .95:
        text = text.rstrip("?.!")
    if rng.random() < .02 and len(text) > 8:
        text = typo(rng, text)
    if rng.random() < .04:
        text = rng.choice(("Please tell me: ", "Hi! ", "Quick question: ", "Look at the picture. ", "In this picture, ")) + text
    return text


def brief(rng, turn, short, number=None):
    """With some probability ask for a bare answer and give one."""
    question, answer, c = turn
    u = rng.random()
    if u > .13 or not question or question[-1] not in "?.":
        return turn
    if number is not None and u < .07:
        return question + " " + rng.choice(P.ONE_NUMBER), str(number), c
    if short in ("yes", "no"):
        return question + " " + rng.choice(P.YES_NO), short, c
    pool = P.SHORT if " " in short else P.ONE_WORD + P.SHORT
    return question + " " + rng.choice(pool), short, c


def yes_no(rng, kind, question, truth, yes, no):
    answer = "Yes, " + yes if truth else "No, " + no
    word, other = ("yes", "no") if truth else ("no", "yes")
    return brief(rng, (question, answer, check(kind, word, rejected=[other])), word)


# ---- one scene -----------------------------------------------------------------------------------------------------

class Scene:
    """A picture with the look-ups questions need."""

    def __init__(self, picture):
        self.picture, self.things = picture, sorted(picture.things, key=lambda t: t.x)
        self.kinds, self.colours, self.names = {}, {}, {}
        for t in self.things:
            self.kinds.setdefault(t.kind, []).append(t)
            self.colours.setdefault(t.colour, []).append(t)
            self.names.setdefault(t.name, []).append(t)
        self.noun = "object" if any(t.kind in world.ICONS for t in self.things) else None

    def reference(self, rng, t):
        """A noun phrase that fits only t, or None."""
        if len(self.kinds[t.kind]) == 1 and rng.random() < .4:
            return t.kind
        if len(self.names[t.name]) == 1:
            return t.name
        return None

    def unique(self):
        return [t for t in self.things if len(self.names[t.name]) == 1]


def ask_colour(rng, s):
    if len(s.things) == 1 and rng.random() < .5:
        t = s.things[0]
        return brief(rng, (worded(rng, P.COLOUR_IT), f"It is {t.colour}.", check("colour", t.colour, rejected=others(t.colour, COLOURS))), t.colour)
    options = [t for t in s.things if len(s.kinds[t.kind]) == 1]
    if not options:
        return None
    t = rng.choice(options)
    noun = t.kind if rng.random() < .9 or len(s.things) > 1 else "shape"
    turn = worded(rng, P.COLOUR_OF, n=noun), f"The {noun} is {t.colour}.", check("colour", t.colour, rejected=others(t.colour, COLOURS))
    return brief(rng, turn, t.colour)


def ask_shape(rng, s):
    if len(s.things) == 1 and rng.random() < .6:
        t = s.things[0]
        if rng.random() < .4:
            return worded(rng, P.WHAT_IT), f"It is {a(t.name)}.", check("shape", t.colour, t.kind, rejected=others(t.kind, THINGS))
        pool = P.SHAPE_IT if t.kind in SHAPES else P.WHAT_IT
        if t.kind in SHAPES:
            return brief(rng, (worded(rng, pool), f"It is {a(t.kind)}.", check("shape", t.kind, rejected=others(t.kind, THINGS))), t.kind)
        return worded(rng, pool), f"It is {a(t.name)}.", check("shape", t.colour, t.kind, rejected=others(t.kind, THINGS))
    options = [t for t in s.things if len(s.colours[t.colour]) == 1]
    if not options:
        return None
    t = rng.choice(options)
    turn = worded(rng, P.SHAPE_OF, c=t.colour), f"The {t.kind} is {t.colour}.", check("shape", t.kind, rejected=others(t.kind, THINGS))
    return brief(rng, turn, t.kind)


def count_target(rng, s):
    """(noun, matching things) for a counting question; sometimes something that is absent."""
    u = rng.random()
    if u < .3 or (u < .4 and len(s.things) > 4):
        return s.noun or rng.choice(("shape", "object", "shape", "thing")), s.things
    if u < .62:
        kind = rng.choice(s.things).kind if rng.random() < .88 else rng.choice(THINGS)
        return kind, s.kinds.get(kind, [])
    if u < .84:
        colour = rng.choice(s.things).colour if rng.random() < .9 else rng.choice(COLOURS)
        return colour + " " + (s.noun or rng.choice(("shape", "object", "thing"))), s.colours.get(colour, [])
    name = rng.choice(s.things).name
    if rng.random() < .12:
        name = rng.choice(COLOURS) + " " + rng.choice(s.things).kind
    return name, s.names.get(name, [])


def ask_count(rng, s):
    noun, found = count_target(rng, s)
    n = len(found)
    turn = worded(rng, P.COUNT, n=plural(noun)), there_are(n, noun), number_check("count", n)
    return brief(rng, turn, P.NUMBER[n] if n else "none", number=n)


def ask_steps(rng, s):
    noun, found = count_target(rng, s)
    n = len(found)
    listed = ", ".join(t.name for t in s.things)
    if noun.split()[-1] in ("shape", "object", "thing") and len(noun.split()) == 1:
        middle = ""
    elif n:
        middle = f" The {plural(noun)} are: " + ", ".join(f"{i + 1} {t.name}" for i, t in enumerate(found)) + "."
    else:
        middle = f" None of them is {a(noun)}."
    end = there_are(n, noun)
    answer = f"From left to right I see: {listed}.{middle} So {end[0].lower()}{end[1:]}"
    question = worded(rng, P.COUNT, n=plural(noun)).rstrip("?.") + "? " + rng.choice(P.STEP)
    tail = "so " + end.lower().rstrip(".")
    c = check("steps", [tail, tail.replace(P.NUMBER[n], str(n))])
    return question, answer, c


def ask_exists(rng, s):
    t = rng.choice(s.things)
    u = rng.random()
    noun = t.name if u < .3 else t.kind if u < .5 else None
    if noun is None:
        noun = rng.choice((rng.choice(COLOURS) + " " + t.kind, t.colour + " " + rng.choice(SHAPES), rng.choice(THINGS)))
    truth = noun in s.names or noun in s.kinds
    return yes_no(rng, "exists", worded(rng, P.EXISTS, n=a(noun)), truth, f"there is {a(noun)}.", f"there is no {noun}.")


def ask_is_colour(rng, s):
    options = [t for t in s.things if len(s.kinds[t.kind]) == 1]
    if not options:
        return None
    t = rng.choice(options)
    colour = t.colour if rng.random() < .5 else rng.choice(COLOURS)
    return yes_no(rng, "colour", worded(rng, P.IS_COLOUR, n=t.kind, c=colour), colour == t.colour, f"the {t.kind} is {t.colour}.",
                  f"the {t.kind} is {t.colour}.")


def place_words(where):
    return {"top": "at the ", "bottom": "at the ", "left": "on the ", "right": "on the "}.get(where, "in the ") + where


def where_check(where, kind="relation"):
    wrong = [w for w in ("top", "bottom", "left", "right", "center") if w not in where.split()]
    return check(kind, [where] if where != "center" else ["center", "centre", "middle"], rejected=wrong)


def ask_where(rng, s):
    options = [(t, world.region(t)) for t in s.unique()]
    options = [(t, w) for t, w in options if w]
    if not options:
        return None
    t, where = rng.choice(options)
    n = s.reference(rng, t)
    return brief(rng, (worded(rng, P.WHERE, n=n), f"The {n} is {place_words(where)}.", where_check(where)), where)


def ask_region(rng, s):
    """What lies in one ninth of the picture; only where a single thing does."""
    regions = [(t, world.region(t)) for t in s.things]
    if any(w is None for _, w in regions):
        return None
    t, where = rng.choice(regions)
    if sum(w == where for _, w in regions) > 1:
        return None
    place = rng.choice((place_words(where), "in the middle")) if where == "center" else place_words(where)
    turn = (worded(rng, P.IN_REGION, w=place), f"The {t.name} is {place_words(where)}.", check("relation", t.name))
    return brief(rng, turn, t.name)


def ask_colour_all(rng, s):
    """The colour of several things of one kind, where they share it."""
    options = [k for k, ts in s.kinds.items() if len(ts) > 1 and len({t.colour for t in ts}) == 1]
    if not options:
        return None
    kind = rng.choice(options)
    colour = s.kinds[kind][0].colour
    turn = (worded(rng, P.COLOUR_ALL, n=plural(kind)), f"The {plural(kind)} are {colour}.", check("colour", colour, rejected=others(colour, COLOURS)))
    return brief(rng, turn, colour)


def holds(x, y, relation, margin):
    axis, sign = SIDES[relation]
    return sign * (getattr(x, axis) - getattr(y, axis)) > margin


def ask_side(rng, s):
    options = s.unique()
    if len(options) < 2:
        return None
    x, y = rng.sample(options, 2)
    relation = rng.choice(sorted(SIDES))
    if not holds(x, y, relation, .09) and not holds(x, y, OPPOSITE[relation], .09):
        return None
    nx, ny = s.reference(rng, x), s.reference(rng, y)
    if nx == ny:
        return None
    truth = holds(x, y, relation, .09)
    true = relation if truth else OPPOSITE[relation]
    if rng.random() < .6:
        form = rng.choice(FORMS[relation])
        fact = f"the {nx} is {true} the {ny}."
        return yes_no(rng, "relation", worded(rng, P.SIDE_YES, a=nx, b=ny, r=form), truth, fact, fact)
    pool = P.SIDE_OR if relation.endswith("of") else P.SIDE_OR[::2]
    question = worded(rng, pool, a=nx, b=ny, r=relation.replace(" of", ""), s=OPPOSITE[relation]).replace("  ", " ")
    core, wrong = true.replace(" of", ""), OPPOSITE[true].replace(" of", "")
    return brief(rng, (question, f"The {nx} is {true} the {ny}.", check("relation", core, rejected=[wrong])), core)


def ask_side_what(rng, s):
    options = s.unique()
    if not options:
        return None
    y, relation = rng.choice(options), rng.choice(sorted(SIDES))
    there = [t for t in s.things if t is not y and holds(t, y, relation, 0)]
    if len(there) != 1 or not holds(there[0], y, relation, .09):
        return None
    t, n = there[0], s.reference(rng, y)
    turn = (worded(rng, P.SIDE_WHAT, b=n, r=rng.choice(FORMS[relation])), f"The {t.name} is {relation} the {n}.",
            check("relation", f"{t.name}"))
    return brief(rng, turn, t.name)


def ask_larger(rng, s):
    options = s.unique()
    if len(options) < 2:
        return None
    x, y = rng.sample(options, 2)
    if max(x.r / y.r, y.r / x.r) < 1.3:
        return None
    nx, ny = s.reference(rng, x), s.reference(rng, y)
    if nx == ny:
        return None
    word, sign = rng.choice((("larger", 1), ("bigger", 1), ("smaller", -1)))
    truth = (x.r > y.r) == (sign > 0)
    winner, loser = (nx, ny) if truth else (ny, nx)
    if rng.random() < .5:
        opposite = "smaller" if sign > 0 else "larger"
        return yes_no(rng, "relation", worded(rng, P.LARGER_YES, a=nx, b=ny, r=word), truth, f"the {nx} is {word} than the {ny}.",
                      f"the {nx} is {opposite} than the {ny}.")
    question = worded(rng, P.LARGER_OR, a=nx, b=ny, r=word)
    return brief(rng, (question, f"The {winner} is {word}.", check("relation", winner, rejected=[loser] if loser not in winner else [])), winner)


def ask_extreme(rng, s):
    if len(s.things) < 2:
        return None
    if rng.random() < .5:
        word, sign = rng.choice((("largest", -1), ("biggest", -1), ("smallest", 1)))
        ordered = sorted(s.things, key=lambda t: sign * t.r)
        if max(ordered[0].r / ordered[1].r, ordered[1].r / ordered[0].r) < 1.25:
            return None
        question, answer = worded(rng, P.EXTREME, r=word), f"The {ordered[0].name} is the {word}."
    else:
        word = rng.choice(("left", "right", "top", "bottom"))
        axis, sign = {"left": ("x", 1), "right": ("x", -1), "top": ("y", 1), "bottom": ("y", -1)}[word]
        ordered = sorted(s.things, key=lambda t: sign * getattr(t, axis))
        if abs(getattr(ordered[0], axis) - getattr(ordered[1], axis)) < .09:
            return None
        question, answer = worded(rng, P.FURTHEST, r=word), f"The {ordered[0].name} is furthest to the {word}."
    return brief(rng, (question, answer, check("relation", ordered[0].name)), ordered[0].name)


def ask_pattern(rng, s):
    options = [t for t in s.unique() if t.pattern != "plain" or (rng.random() < .25 and not t.outline)]
    if not options:
        return None
    t = rng.choice(options)
    n = s.reference(rng, t)
    turn = worded(rng, P.PATTERN, n=n), f"The {n} is {t.pattern}.", check("pattern", t.pattern, rejected=others(t.pattern, PATTERNS))
    return brief(rng, turn, t.pattern)


def ask_ground(rng, s):
    ground = s.picture.ground
    if not ground:
        return None
    turn = worded(rng, P.GROUND), f"The background is {ground}.", check("colour", ground, rejected=others(ground, COLOURS))
    return brief(rng, turn, ground)


def ask_describe(rng, s):
    groups = []
    for t in s.things:
        if t.name not in groups:
            groups.append(t.name)
    listed = join([counted(len(s.names[g]), g) for g in groups])
    ground = f" on a {s.picture.ground} background" if s.picture.ground else ""
    if s.picture.ground == "orange":
        ground = " on an orange background"
    required = [[counted(len(s.names[g]), g), g if len(s.names[g]) == 1 else plural(g)] for g in groups]
    if len(s.things) == 1:
        pool = [q for q in P.DESCRIBE if q not in P.WHAT_IT]
        return worded(rng, pool), f"I see {listed}{ground}.", check("describe", *required)
    answer = f"I see {P.NUMBER[len(s.things)]} {'objects' if s.noun else 'shapes'}{ground}: {listed}."
    return worded(rng, P.DESCRIBE), answer, check("describe", *required)


def ask_colours(rng, s):
    seen = []
    for t in s.things:
        if t.colour not in seen:
            seen.append(t.colour)
    listed = join(seen)
    return worded(rng, P.COLOURS_SEEN), listed[0].upper() + listed[1:] + ".", check("describe", *seen, rejected=[c for c in COLOURS if c not in seen])


def ask_unknowable(rng, s):
    return worded(rng, P.UNKNOWABLE, n=rng.choice(s.things).kind if s and s.things else "word"), P.CANNOT, check("refuse", ["cannot tell"])


def ask_absent(rng, s):
    kind = rng.choice(THINGS)
    if kind in s.kinds:
        return None
    return worded(rng, rng.choice((P.COLOUR_OF, P.WHERE)), n=kind), f"There is no {kind} in the picture.", check("refuse", [f"no {kind}"])


SCENE_ASKERS = [(ask_colour, 10), (ask_shape, 10), (ask_count, 22), (ask_exists, 5), (ask_is_colour, 3), (ask_where, 6), (ask_side, 12),
                (ask_side_what, 5), (ask_larger, 7), (ask_extreme, 6), (ask_pattern, 4), (ask_ground, 3), (ask_describe, 8),
                (ask_region, 5), (ask_colour_all, 4), (ask_colours, 2), (ask_unknowable, 2), (ask_absent, 2), (ask_steps, 6)]
_ASKERS, _WEIGHTS = [f for f, _ in SCENE_ASKERS], [w for _, w in SCENE_ASKERS]


def follow_up(rng, s):
    """Two or three turns that lean on one another; every turn's check has kind 'multiturn'."""
    options = s.unique()
    if not options:
        return None
    t = rng.choice(options)
    if rng.random() < .25 and len(s.kinds) > 1:
        turns, kinds = [], rng.sample(sorted(s.kinds), 2)
        for i, kind in enumerate(kinds):
            n = len(s.kinds[kind])
            question = worded(rng, P.COUNT, n=plural(kind)) if i == 0 else rng.choice(("And how many {k}?", "And {k}?", "What about {k}?",
                                                                                      "and the {k}?")).format(k=plural(kind))
            turns.append((question, there_are(n, kind), number_check("multiturn", n)))
        return turns
    if len(s.colours[t.colour]) == 1 and rng.random() < .5:
        turns = [(worded(rng, P.SHAPE_OF, c=t.colour), f"The {t.kind} is {t.colour}.", check("multiturn", t.kind, rejected=others(t.kind, THINGS)))]
    elif len(s.kinds[t.kind]) == 1:
        turns = [(worded(rng, P.COLOUR_OF, n=t.kind), f"The {t.kind} is {t.colour}.", check("multiturn", t.colour, rejected=others(t.colour, COLOURS)))]
    else:
        return None
    where = world.region(t)
    if where:
        turns.append((worded(rng, P.WHERE_IT), f"It is {place_words(where)}.", where_check(where, "multiturn")))
    second = [x for x in options if x is not t and len(s.colours[x.colour]) == 1 and len(s.kinds[x.kind]) == 1]
    if second:
        x = rng.choice(second)
        if "colour" in turns[0][0].lower() or "color" in turns[0][0].lower():
            turns.append((rng.choice(("And the {k}?", "What about the {k}?", "and the {k}?")).format(k=x.kind) if len(turns) == 1 else
                          worded(rng, P.COLOUR_OF, n=x.kind), f"The {x.kind} is {x.colour}.",
                          check("multiturn", x.colour, rejected=others(x.colour, COLOURS))))
        elif max(x.r / t.r, t.r / x.r) > 1.3:
            truth = t.r > x.r
            turns.append((f"Is it larger than the {x.kind}?", f"Yes, it is larger than the {x.kind}." if truth else
                          f"No, it is smaller than the {x.kind}.", check("multiturn", "yes" if truth else "no", rejected=["no" if truth else "yes"])))
    return turns if len(turns) > 1 else None


def scene_branches(rng, s, count, single=False):
    branches, seen = [], set()
    for _ in range(count * 4):
        if len(branches) == count:
            break
        if rng.random() < .07:
            turns = follow_up(rng, s)
            if turns:
                branches.append(turns)
            continue
        turn = rng.choices(_ASKERS, _WEIGHTS)[0](rng, s)
        if not turn or turn[0] in seen:
            continue
        seen.add(turn[0])
        if branches and rng.random() < .22:
            branches[-1] = branches[-1] + [turn]
        else:
            branches.append([turn])
    return branches


def scene_document(rng, held_out=False):
    u = rng.random()
    if u < .22:
        picture = world.scene(rng, 1, held_out)
    elif u < .55:
        picture = world.scene(rng, rng.choice((2, 2, 3, 3, 4)), held_out, repeat=.15)
    else:
        picture = world.scene(rng, rng.choice((2, 3, 4, 4, 5, 5, 6, 6, 7)), held_out, repeat=rng.choice((.3, .6, .85)))
    s = Scene(picture)
    return Document([picture], [0], scene_branches(rng, s, rng.randint(5, 8)))


# ---- reading and charts --------------------------------------------------------------------------------------------

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


# ---- several pictures ----------------------------------------------------------------------------------------------

def nudge(rng, things, amount):
    for t in things:
        t.x, t.y = min(max(t.x + rng.uniform(-amount, amount), t.r), 1 - t.r), min(max(t.y + rng.uniform(-amount, amount), t.r), 1 - t.r)


def change_scene(rng, held_out):
    """(first picture, second picture, answer, check) with one change, or none, between them."""
    while True:
        first = world.scene(rng, rng.choice((1, 2, 2, 3, 3, 4)), held_out, repeat=.1, distinct=True)
        things = [t.copy() for t in first.things]
        grounds = (tuple(first.background[1:4]), tuple(first.background[4:7]))
        kind = rng.choice(("colour", "colour", "shape", "gone", "added", "larger", "smaller", "nothing", "moved"))
        i = rng.randrange(len(things))
        t = things[i]
        old = t.name
        if kind == "colour":
            pick = world.pick_colour(rng, grounds, t.kind, held_out, [x.colour for x in things])
            if not pick:
                continue
            t.colour, t.rgb = pick
            t.rgb2, t.pattern = pick[1], "plain"
            answer, c = f"The {t.kind} changed from {old.split()[0]} to {t.colour}.", check("compare2", t.kind, t.colour)
        elif kind == "shape":
            options = [k for k in SHAPES if k not in [x.kind for x in things] and (held_out or (t.colour, k) not in world.HELD_OUT_PAIRS)]
            if t.kind not in SHAPES or not options:
                continue
            t.kind, t.outline, t.turn = rng.choice(options), 0., 0.
            answer, c = f"The {old} became {a(t.kind)}.", check("compare2", old, t.kind)
        elif kind == "gone":
            if len(things) < 2:
                continue
            del things[i]
            answer, c = f"The {old} is gone.", check("compare2", old, ["gone", "removed", "missing", "disappeared"])
        elif kind == "added":
            pick = world.sample_things(rng, 1, held_out, grounds, fancy=False, kinds=SHAPES)
            if not pick or any(pick[0].name == x.name for x in things) or not place_one(rng, pick[0], things):
                continue
            things.append(pick[0])
            answer, c = f"{a(pick[0].name).capitalize()} was added.", check("compare2", pick[0].name, ["added", "appeared", "new"])
        elif kind in ("larger", "smaller"):
            t.r *= rng.uniform(1.5, 1.9) if kind == "larger" else rng.uniform(.5, .65)
            if not .055 < t.r < .24 or not fits(t, things):
                continue
            answer, c = f"The {old} became {kind}.", check("compare2", old, [kind, "bigger" if kind == "larger" else kind])
        elif kind == "moved":
            before = t.x, t.y
            if not place_one(rng, t, [x for x in things if x is not t]):
                continue
            dx, dy = t.x - before[0], t.y - before[1]
            if max(abs(dx), abs(dy)) < .25 or min(abs(dx), abs(dy)) > .6 * max(abs(dx), abs(dy)):
                continue
            where = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
            answer, c = f"The {old} moved {where}.", check("compare2", old, where)
        else:
            answer, c = "Nothing changed.", check("compare2", ["nothing", "no change", "same"])
        if kind != "nothing":
            c["rejected"] = ["nothing"]
        second = world.draw(rng, things, list(first.background), first.ground, 1.)
        first = world.draw(rng, first.things, first.background, first.ground, 1.)
        return first, second, answer, c


def fits(t, things):
    return t.r < t.x < 1 - t.r and t.r < t.y < 1 - t.r and all(
        x is t or (x.x - t.x) ** 2 + (x.y - t.y) ** 2 > ((x.r + t.r) * 1.03 + .01) ** 2 for x in things)


def place_one(rng, t, things):
    for _ in range(40):
        t.x, t.y = rng.uniform(t.r, 1 - t.r), rng.uniform(t.r, 1 - t.r)
        if fits(t, things):
            return True
    return False


def change_document(rng, held_out=False):
    first, second, answer, c = change_scene(rng, held_out)
    branches = [[(worded(rng, P.CHANGED), answer, c)]]
    s1, s2 = Scene(first), Scene(second)
    n1, n2 = len(s1.things), len(s2.things)
    if rng.random() < .4:
        branches.append([has_more(rng, "object", n1, n2)])
    if rng.random() < .5:
        branches += in_picture_turns(rng, [s1, s2])[:2]
    if rng.random() < .3:
        same = answer == "Nothing changed."
        branches.append([yes_no(rng, "compare2", worded(rng, ["Are the two pictures the same?", "Are these pictures identical?", "Did anything change?"][:2]),
                                same, "the two pictures are the same.", "they are different.")])
    return Document([first, second], [0, 1], branches)


def has_more(rng, noun, n1, n2):
    more = ["first", "second"][n2 > n1]
    question = worded(rng, P.HAS_MORE, n=plural(noun))
    if n1 == n2:
        return question, f"Both have the same number of {plural(noun)}.", check("compare2", ["same", "equal"])
    return question, f"The {more} picture has more {plural(noun)}.", check("compare2", more, rejected=["second" if more == "first" else "first", "same"])


def in_picture_turns(rng, scenes):
    turns = []
    for i in rng.sample(range(len(scenes)), min(2, len(scenes))):
        s = scenes[i]
        if len(s.things) == 1 and rng.random() < .5:
            colour = s.things[0].colour
            turns.append((worded(rng, P.IN_PICTURE_COLOUR, o=ORDINAL[i]), f"It is {colour}.", check("compare2", colour, rejected=others(colour, COLOURS))))
        else:
            noun, found = count_target(rng, s)
            turns.append((worded(rng, P.IN_PICTURE, n=plural(noun), o=ORDINAL[i]), there_are(len(found), noun), number_check("compare2", len(found))))
    return [[t] for t in turns]


def pair_document(rng, held_out=False):
    """Two unrelated pictures: which has more, which shows it, same shape, same colour."""
    if rng.random() < .5:
        kind = rng.choice(SHAPES)
        pictures = [world.scene(rng, rng.randint(1, 6), held_out, repeat=.6, kinds=SHAPES if rng.random() < .6 else [kind]) for _ in range(2)]
        s1, s2 = map(Scene, pictures)
        branches = [[has_more(rng, "object", len(s1.things), len(s2.things))]]
        shared = sorted(set(s1.kinds) | set(s2.kinds))
        kind = rng.choice(shared)
        branches.append([has_more(rng, kind, len(s1.kinds.get(kind, [])), len(s2.kinds.get(kind, [])))])
        only = [(n, 0) for n in s1.names if n not in s2.names] + [(n, 1) for n in s2.names if n not in s1.names]
        if only:
            name, i = rng.choice(only)
            branches.append([(worded(rng, P.SHOWS, n=a(name)), f"The {ORDINAL[i]} picture shows {a(name)}.",
                              check("compare2", ORDINAL[i], rejected=[ORDINAL[1 - i]]))])
        noun, n = (kind, len(s1.kinds.get(kind, [])) + len(s2.kinds.get(kind, []))) if rng.random() < .6 else \
            ("object", len(s1.things) + len(s2.things))
        if n < 9:
            turn = (worded(rng, P.TOTAL, n=plural(noun)), there_are(n, noun), number_check("compare2", n))
            branches.append([brief(rng, turn, P.NUMBER[n], number=n)])
        return Document(pictures, [0, 1], branches + in_picture_turns(rng, [s1, s2]))
    pictures = [world.scene(rng, 1, held_out)]
    t = pictures[0].things[0]
    u = rng.random()
    while True:
        other = world.scene(rng, 1, held_out, kinds=[t.kind] if u < .4 else None)
        if .4 < u < .75 and other.things[0].colour != t.colour and rng.random() < .9:
            continue
        break
    pictures.append(other)
    x = other.things[0]
    branches = [[yes_no(rng, "compare2", worded(rng, P.SAME_KIND), t.kind == x.kind, f"both show {a(t.kind)}.",
                        f"the first shows {a(t.kind)} and the second {a(x.kind)}.")],
                [yes_no(rng, "compare2", worded(rng, P.SAME_COLOUR), t.colour == x.colour, f"both are {t.colour}.",
                        f"the first is {t.colour} and the second is {x.colour}.")]]
    branches += in_picture_turns(rng, [Scene(p) for p in pictures])
    if t.r / x.r > 1.3 or x.r / t.r > 1.3:
        i = int(x.r > t.r)
        branches.append([(worded(rng, ["Which picture has the larger object?", "In which picture is the object larger?"]),
                          f"The object in the {ORDINAL[i]} picture is larger.", check("compare2", ORDINAL[i], rejected=[ORDINAL[1 - i]]))])
    branches.append([(worded(rng, P.DESCRIBE + ["Describe both pictures."]), f"The first picture shows {a(t.name)} and the second {a(x.name)}.",
                      check("describe", t.name, x.name))])
    return Document(pictures, [0, 1], rng.sample(branches, min(len(branches), 4)))


def triple_document(rng, held_out=False):
    if rng.random() < .5:
        while True:
            pictures = [world.scene(rng, rng.randint(1, 6), held_out, repeat=.5) for _ in range(3)]
            counts = [len(p.things) for p in pictures]
            if sorted(counts)[-1] > sorted(counts)[-2]:
                break
        i = counts.index(max(counts))
        branches = [[(worded(rng, P.HAS_MOST, n="objects"), f"The {ORDINAL[i]} picture has the most objects.",
                      check("compare3", ORDINAL[i], rejected=others(ORDINAL[i], ORDINAL)))]]
        scenes = [Scene(p) for p in pictures]
        for i, s in enumerate(scenes):
            names = [n for n in s.names if not any(n in o.names for o in scenes if o is not s)]
            if names:
                name = rng.choice(names)
                branches.append([(worded(rng, P.SHOWS, n=a(name)), f"The {ORDINAL[i]} picture shows {a(name)}.",
                                  check("compare3", ORDINAL[i], rejected=others(ORDINAL[i], ORDINAL)))])
        branches += in_picture_turns(rng, scenes)[:1]
    else:
        kind, odd = rng.sample(SHAPES, 2)
        i = rng.randrange(3)
        pictures = [world.scene(rng, 1, held_out, kinds=[odd if j == i else kind]) for j in range(3)]
        if any(p.things[0].kind != (odd if j == i else kind) for j, p in enumerate(pictures)):
            return triple_document(rng, held_out)
        branches = [[(worded(rng, P.ODD), f"The {ORDINAL[i]} picture is different: it shows {a(odd)}.",
                      check("compare3", ORDINAL[i], rejected=others(ORDINAL[i], ORDINAL)))]]
        branches.append([(worded(rng, P.SHOWS, n=a(odd)), f"The {ORDINAL[i]} picture shows {a(odd)}.",
                          check("compare3", ORDINAL[i], rejected=others(ORDINAL[i], ORDINAL)))])
        branches += in_picture_turns(rng, [Scene(p) for p in pictures])[:1]
    return Document(pictures, [0, 1, 2], branches)


# ---- in-context patterns -------------------------------------------------------------------------------------------

ICL_FORMATS = ["{v}", "{v}.", "Answer: {v}", "answer: {v}", "{k}: {v}", "{k} = {v}", "-> {v}", "=> {v}", "[{v}]", "({v})", '"{v}"', "It is {v}.",
               "The answer is {v}.", "{v}!", "* {v}", "<{v}>", "{k} is {v}", "I see {v}", "A: {v}", "result: {v}", "{v} {v}", "this is {v}",
               "{k} -> {v}", "label: {v}", "Output: {v}", "Yes, {v}", "{{{v}}}", "#{v}", "say {v}", "so {v}"]
ICL_ASK = {"colour": ["What colour?", "Name the colour."], "shape": ["What shape?", "Name the shape."], "count": ["How many?", "Count them."],
           "word": ["Read it.", "What does it say?"], "number": ["Which number?", "Read it."], "thing": ["What is it?", "Name it."],
           "where": ["Where is it?"]}
ICL_MORE = ["And this one?", "Now this one.", "Continue.", "?", "What comes here?", "Next:", "Do the same for this one."]


def icl_item(rng, kind, words, held_out):
    """(picture, value) for one example of a pattern."""
    if kind in ("colour", "shape", "thing", "where"):
        while True:
            picture = world.scene(rng, 1, held_out, kinds=SHAPES if kind == "shape" else None)
            t = picture.things[0]
            value = {"colour": t.colour, "shape": t.kind, "thing": t.name, "where": world.region(t)}[kind]
            if value:
                return picture, value
    if kind == "count":
        picture = world.scene(rng, rng.randint(1, 6), held_out, repeat=rng.choice((.4, .95)))
        return picture, len(picture.things)
    text = sample_number(rng) if kind == "number" else words.sample(rng, held_out)
    return world.text_picture(rng, text, held_out), text


def icl_format(rng, kind):
    form, name = rng.choice(ICL_FORMATS), {"colour": rng.choice(("colour", "color")), "thing": "object"}.get(kind, kind)
    case, digits = rng.choice((str, str, str, str.upper, str.capitalize)), rng.random() < .5
    if kind in ("word", "number"):
        case = str
    if rng.random() < .3:
        name = name.capitalize()

    def render(value):
        if kind == "count":
            value = str(value) if digits else P.NUMBER[value]
        return form.format(v=case(value), k=name)
    return render


def icl_document(rng, words, held_out=False):
    kind = rng.choice(("colour", "colour", "shape", "shape", "count", "count", "word", "number", "thing", "where"))
    shots = 2 if rng.random() < .85 else 1
    items = [icl_item(rng, kind, words, held_out) for _ in range(shots + 1)]
    if shots == 2 and items[0][1] == items[1][1]:
        items[1] = icl_item(rng, kind, words, held_out)
    render = icl_format(rng, kind)
    pictures, answers = [p for p, _ in items], [render(v) for _, v in items]
    wanted = re.sub(r"[^a-z0-9]+", " ", answers[-1].lower()).strip()
    c = {"kind": "icl", "required": [[wanted]], "rejected": [], "exact": answers[-1]}
    ask = worded(rng, ICL_ASK[kind]) if rng.random() < .3 else None
    if rng.random() < .55:          # all in one message
        head = [ask] if ask else []
        for i in range(shots):
            head += [i, answers[i]]
        head.append(shots)
        last = rng.choice(ICL_MORE) if rng.random() < .4 else None
        return Document(pictures, head, [[(last, answers[-1], c)]])
    turns = [(ask, answers[0], None)]
    for i in range(1, shots + 1):
        turns.append(([i] + ([ask] if ask else []), answers[i], c if i == shots else None))
    return Document(pictures, [0], [turns], demonstrations=shots)


# ---- text alone ----------------------------------------------------------------------------------------------------

class Library:
    """The stories, loaded once per process."""

    def __init__(self, held_out=False):
        self.stories = stories.load(held_out)

    def sample(self, rng, real=.7):
        if rng.random() < real:
            text = stories.rename(rng, rng.choice(self.stories))
            return text, stories.topic(rng, text)
        return stories.made_up(rng)


def chat_document(rng, library):
    u = rng.random()
    if u < .2:
        turns = [(worded(rng, P.NO_PICTURE_ASK), P.NO_PICTURE, check("text", ["do not see a picture"]))]
    elif u < .45:
        questions, answer = rng.choice(P.CHAT)
        turns = [(worded(rng, questions), answer, check("text", [re.sub(r"[^a-z0-9]+", " ", answer.lower()).strip()]))]
    else:
        text, subject = library.sample(rng, .6)
        turns = [(stories.ask_for(rng, subject if rng.random() < .9 else None), text, None)]
    return Document([], [], [turns])


def story_document(rng, library):
    return Document(raw=library.sample(rng)[0])


# ---- the mix -------------------------------------------------------------------------------------------------------

def with_order(rng, document, chance=.2):
    """Sometimes put the question before the pictures; only where one branch can hold it."""
    if document.pictures and not document.demonstrations and all(isinstance(p, int) for p in document.head) and rng.random() < chance:
        branch = rng.choice(document.branches)
        (question, answer, c), rest = branch[0], branch[1:]
        if isinstance(question, str):
            return Document(document.pictures, [question] + document.head, [[(None, answer, c)] + rest])
    return document


def words_document(rng, words, held_out=False):
    """Two or three pictures with a word or a number each."""
    texts = [sample_number(rng) if rng.random() < .25 else words.sample(rng, held_out) for _ in range(rng.choice((2, 2, 3)))]
    if len({t.lower() for t in texts}) < len(texts):
        return words_document(rng, words, held_out)
    kind = "compare2" if len(texts) == 2 else "compare3"
    pictures = [world.text_picture(rng, t, held_out) for t in texts]
    quoted = lambda t: t if t.isdigit() else f'"{t}"'
    turns = []
    for i, t in enumerate(texts):
        turns.append((worded(rng, P.READ_IN, o=ORDINAL[i]), f"It says {quoted(t)}.", check(kind, t.lower())))
    i = rng.randrange(len(texts))
    asked = texts[i].lower() if rng.random() < .4 else texts[i] if rng.random() < .6 else quoted(texts[i])
    turns.append((rng.choice(P.SAYS).format(t=asked), f"The {ORDINAL[i]} picture says {quoted(texts[i])}.",
                  check(kind, ORDINAL[i], rejected=others(ORDINAL[i], ORDINAL))))
    return Document(pictures, list(range(len(texts))), [[t] for t in rng.sample(turns, min(len(turns), 3))])


def album_document(rng, words, held_out=False):
    """Several pictures, one a turn; every question is about the latest."""
    pictures, turns = [], []
    for i in range(rng.randint(2, 3)):
        if rng.random() < .3:
            text = sample_number(rng) if rng.random() < .4 else words.sample(rng, held_out)
            picture, turn = world.text_picture(rng, text, held_out), read_turn(rng, text)
        else:
            picture = world.scene(rng, rng.choice((1, 1, 2, 3, 4, 5)), held_out, repeat=.4)
            branches = scene_branches(rng, Scene(picture), 1)
            turn = branches[0][0] if branches else (worded(rng, P.COUNT, n="objects"), there_are(len(picture.things), "object"),
                                                    number_check("count", len(picture.things)))
        pictures.append(picture)
        turns.append(turn if i == 0 else ([i, turn[0]] if rng.random() < .6 else [turn[0], i], turn[1], turn[2]))
    return Document(pictures, [0], [turns])


def ask_nothing(rng):
    noun = rng.choice(("object", "shape", "thing") + tuple(SHAPES))
    return worded(rng, P.COUNT, n=plural(noun)), there_are(0, noun), number_check("count", 0)


def empty_document(rng):
    picture = world.empty_picture(rng)
    branches = [[(worded(rng, P.DESCRIBE + P.WHAT_IT), "The picture is empty.", check("refuse", ["empty"]))],
                [ask_nothing(rng)]]
    noun = rng.choice(THINGS)
    branches.append([(worded(rng, P.EXISTS, n=a(noun)), f"No, there is no {noun}.", check("exists", "no", rejected=["yes"]))])
    if picture.ground:
        turn = (worded(rng, P.GROUND), f"The background is {picture.ground}.", check("colour", picture.ground, rejected=others(picture.ground, COLOURS)))
        branches.append([turn])
    return Document([picture], [0], branches)


def sample_document(rng, words, library, held_out=False):
    """One document of the training mix."""
    u = rng.random()
    if u < .36:
        document = scene_document(rng, held_out)
    elif u < .59:
        document = text_document(rng, words, held_out)
    elif u < .605:
        document = empty_document(rng)
    elif u < .64:
        document = album_document(rng, words, held_out)
    elif u < .68:
        document = plot_document(rng, held_out)
    elif u < .78:
        document = change_document(rng, held_out)
    elif u < .83:
        document = pair_document(rng, held_out)
    elif u < .855:
        document = triple_document(rng, held_out)
    elif u < .87:
        document = words_document(rng, words, held_out)
    elif u < .955:
        document = icl_document(rng, words, held_out)
    else:
        return chat_document(rng, library)
    document = with_order(rng, document)
    if rng.random() < .15:
        document.system = rng.choice(P.SYSTEM)
    return document


def load_words(pieces=()):
    """Words(train, held out) from data/words.txt: a held-out word's line starts with '*'."""
    import os
    lines = open(os.path.join(world.HERE, "data", "words.txt")).read().split()
    return Words([w for w in lines if not w.startswith("*")], [w[1:] for w in lines if w.startswith("*")], pieces)
