"""Short stories in simple English: the TinyStories sample (with names exchanged) and a small story grammar."""
import gzip
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ["Lily", "Tom", "Ben", "Mia", "Sara", "Tim", "Max", "Anna", "Sam", "Lucy", "Jack", "Amy", "Leo", "Emma", "Zoe", "Nina", "Bob", "Ella"]
ANIMALS = ["dog", "cat", "rabbit", "bear", "fox", "duck", "mouse", "frog", "pig", "horse", "bird", "squirrel", "turtle", "owl", "sheep", "lion"]
ADJECTIVES = ["little", "small", "brave", "happy", "kind", "shy", "funny", "clever", "gentle", "curious", "sleepy", "hungry"]
PLACES = ["park", "garden", "forest", "farm", "beach", "village", "field", "house", "yard", "hill", "river", "school"]
THINGS = ["ball", "kite", "red hat", "toy car", "cake", "book", "shiny stone", "drum", "boat", "flower", "balloon", "apple", "blue box", "blanket"]
TOPIC = re.compile(r"\b(dog|cat|rabbit|bear|fox|duck|mouse|frog|pig|horse|bird|squirrel|turtle|owl|sheep|lion|ball|kite|hat|car|cake|book|stone|"
                   r"boat|flower|balloon|apple|box|tree|fish|boy|girl|truck|doll|bike|park|train|monkey|butterfly|king|princess)s?\b")
ASK = ["Tell me a story.", "Can you tell me a story?", "Tell me a short story.", "Please tell me a story.", "I want to hear a story.",
       "Write a short story."]
ASK_ABOUT = ["Tell me a story about a {t}.", "Write a story about a {t}.", "Can you tell me a short story about a {t}?",
             "I would like a story about a {t}, please.", "Make up a story with a {t} in it.", "tell me a story about a {t}"]


def load(held_out=False):
    """The sample's stories; the last 40 are kept for validation."""
    with gzip.open(os.path.join(HERE, "data", "stories.txt.gz"), "rt", encoding="utf-8") as file:
        stories = [s.strip() for s in re.split(r"(?<!\n)\n(?!\n)", file.read()) if len(s.strip()) > 80]
    stories = [re.sub(r"[^\x20-\x7e\n]", "", s.replace("’", "'").replace("“", '"').replace("”", '"')) for s in stories]
    return stories[-40:] if held_out else stories[:-40]


def rename(rng, story):
    """Exchange the names in a story, consistently, for a fresh telling of it."""
    found = [n for n in NAMES if re.search(r"\b%s\b" % n, story)]
    fresh = dict(zip(found, rng.sample(NAMES, len(found))))
    return re.sub(r"\b(%s)\b" % "|".join(found), lambda m: fresh[m.group(1)], story) if found else story


def topic(rng, story):
    """A noun the story speaks of at least twice, or None."""
    words = [m.group(1) for m in TOPIC.finditer(story.lower())]
    often = [w for w in set(words) if words.count(w) >= 2]
    return rng.choice(sorted(often)) if often else None


def made_up(rng):
    """A story from the grammar and its topic."""
    hero, friend = rng.sample(NAMES, 2)
    animal, other = rng.sample(ANIMALS, 2)
    adjective, place, thing = rng.choice(ADJECTIVES), rng.choice(PLACES), rng.choice(THINGS)
    is_animal = rng.random() < .6
    who = f"a {adjective} {animal} named {hero}" if is_animal else f"a {adjective} {rng.choice(('girl', 'boy'))} named {hero}"
    girl = "girl" in who or (is_animal and rng.random() < .5)
    he, his, him = ("she", "her", "her") if girl else ("he", "his", "him")
    He = he.capitalize()
    opening = rng.choice([f"Once upon a time, there was {who}.", f"One day, {who} went to the {place}.",
                          f"There once was {who}. {He} lived near a {place}.", f"Once there was {who} who lived by the {place}."])
    wish = rng.choice([f"{hero} loved to play with {his} {thing}.", f"{hero} had a {thing} and took it everywhere.",
                       f"{He} wanted to find a {thing}.", f"Every day, {he} played in the {place} with a {thing}."])
    event = rng.choice([f"One day, the {thing} was gone. {hero} looked and looked, but {he} could not find it.",
                        f"One morning, {hero} saw a {other} who was crying. \"I am lost,\" said the {other}.",
                        f"Then it began to rain, and {hero} was cold and wet. {He} did not know what to do.",
                        f"Suddenly, the wind took the {thing} up into a tall tree. {hero} was very sad.",
                        f"One day, {hero} met a {other}. The {other} wanted the {thing} too, and they began to fight."])
    helper = rng.choice([f"A kind {other} named {friend} came by. \"Do not cry,\" {friend} said. \"I will help you.\"",
                         f"{hero} asked {his} friend {friend} for help. \"Let us look together,\" said {friend}.",
                         f"{hero}'s mom came and gave {him} a hug. \"We can fix this,\" she said.",
                         f"{hero} thought for a long time. Then {he} had a good idea."])
    end = rng.choice([f"Together they made everything right again. {hero} smiled and said, \"Thank you!\"",
                      f"Soon all was well, and they shared the {thing} and laughed.",
                      f"They worked hard, and in the end {hero} was happy again.",
                      f"After that, they sat in the {place} and ate some {rng.choice(('bread', 'soup', 'berries', 'cookies', 'apples'))}."])
    close = rng.choice([f"From that day on, {hero} and {friend} were best friends.", f"{hero} learned that it is good to help others.",
                        f"{He} went home and slept well that night.", f"{hero} learned to share, and everyone was happy.", "The end.",
                        f"And {hero} never forgot that day at the {place}."])
    break_ = "\n\n" if rng.random() < .5 else " "
    return f"{opening} {wish}{break_}{event} {helper}{break_}{end} {close}", (animal if is_animal else thing.split()[-1])


def ask_for(rng, subject):
    return rng.choice(ASK_ABOUT).format(t=subject) if subject else rng.choice(ASK)
