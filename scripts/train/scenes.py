"""Questions about one picture of things: colour, shape, number, place, size, pattern; follow-ups and steps."""
import phrases as P
import world
from conversation import Document, FORMS, OPPOSITE, SIDES, a, brief, check, counted, join, number_check, others, plural, \
    there_are, worded, yes_no
from world import COLOURS, PATTERNS, SHAPES, THINGS


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
                (ask_colours, 2), (ask_unknowable, 2), (ask_absent, 2), (ask_steps, 6)]
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
