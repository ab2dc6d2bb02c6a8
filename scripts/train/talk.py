"""Conversations about pictures: every question comes with its right answer and the check an evaluator applies.

A `Turn` is (question, answer, check). check = {kind, required: [[alternatives], ...], rejected: [words]}: a reply is
right when, lower-cased and with punctuation turned to spaces, it holds one alternative of every `required` list as whole
words and none of `rejected`. A `Document` is what one row of training holds: a shared head (system prompt, pictures)
and branches, each a list of turns that do not see one another's branch.
"""
import os
import re

import phrases as P
import stories
import world
from conversation import Document, check, worded
from scenes import empty_document, scene_document
from reading import Words, plot_document, text_document
from several import album_document, change_document, icl_document, pair_document, triple_document


class Library:
    """The stories, loaded once per process."""

    def __init__(self, held_out=False):
        self.stories = stories.load(held_out)

    def sample(self, rng):
        if rng.random() < .7:
            text = stories.rename(rng, rng.choice(self.stories))
            return text, stories.topic(rng, text)
        return stories.made_up(rng)


def chat_document(rng, library):
    u = rng.random()
    if u < .34:
        turns = [(worded(rng, P.NO_PICTURE_ASK), P.NO_PICTURE, check("text", ["do not see a picture"]))]
    elif u < .7:
        questions, answer = rng.choice(P.CHAT)
        turns = [(worded(rng, questions), answer, check("text", [re.sub(r"[^a-z0-9]+", " ", answer.lower()).strip()]))]
    else:
        text, subject = library.sample(rng)
        turns = [(stories.ask_for(rng, subject if rng.random() < .8 else None), text, None)]
    return Document([], [], [turns])


def story_document(rng, library):
    return Document(raw=library.sample(rng)[0])


def with_order(rng, document, chance=.2):
    """Sometimes put the question before the pictures; only where one branch can hold it."""
    if document.pictures and not document.demonstrations and all(isinstance(p, int) for p in document.head) and rng.random() < chance:
        branch = rng.choice(document.branches)
        (question, answer, c), rest = branch[0], branch[1:]
        if isinstance(question, str):
            return Document(document.pictures, [question] + document.head, [[(None, answer, c)] + rest])
    return document


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
    elif u < .84:
        document = pair_document(rng, held_out)
    elif u < .87:
        document = triple_document(rng, held_out)
    elif u < .97:
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
