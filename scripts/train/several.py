"""Questions about two or three pictures, in-context patterns, and albums of one picture a turn."""
import re

import phrases as P
import world
from conversation import Document, ORDINAL, a, check, number_check, others, plural, there_are, worded, yes_no
from scenes import Scene, count_target, scene_branches
from reading import read_turn, sample_number
from world import COLOURS, SHAPES


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
