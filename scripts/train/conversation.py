"""What a conversation is, and the small language every kind of question shares."""
import phrases as P


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
