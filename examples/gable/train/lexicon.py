"""The closed vocabulary that every generator draws from.

Small on purpose: a member of 0.2 M parameters must be able to spell all of it. Substances, dishes and people
are invented.
"""

from __future__ import annotations

PEOPLE = (
    "Ann",
    "Bo",
    "Cy",
    "Dee",
    "Eli",
    "Fay",
    "Gus",
    "Hal",
    "Ivy",
    "Jo",
    "Kim",
    "Lou",
    "Mia",
    "Ned",
    "Oda",
    "Pip",
)
FRUIT = ("figs", "nuts", "pears", "plums", "eggs", "cups", "coins", "pens")
OBJECTS = ("lamp", "key", "rope", "drum", "bell", "coat", "map", "cup", "boat", "kite", "book", "ring", "mask", "flag",
           "bag", "hat")  # fmt: skip
ANIMALS = ("fox", "owl", "bear", "wolf", "goat", "crow", "hare", "toad")
PLACES = ("hill", "river", "barn", "tower", "forest", "bridge", "cave", "garden")
JOBS = ("tailor", "baker", "sailor", "miller", "potter", "weaver", "smith", "farmer")
STORY_VERBS = ("found", "lost", "saw", "hid", "sold", "took", "kept", "drew")
DEEDS = (("chased", "wolf"), ("fixed", "bridge"), ("found", "ring"), ("freed", "bear"), ("saved", "boat"),
         ("built", "tower"), ("rang", "bell"), ("caught", "crow"), ("fed", "goat"), ("lit", "lamp"),
         ("crossed", "river"), ("opened", "cave"))  # fmt: skip
MOODS = ("old", "red", "small", "dark", "kind", "brave", "cold", "lost")

KITCHEN = ("oats", "honey", "milk", "rye", "mint", "salt", "leeks", "beans", "barley", "cream", "garlic", "butter",
           "onions", "apples", "sage", "rice", "ginger", "lemon", "peas", "cocoa")  # fmt: skip
KITCHEN_DOING = ("Stir", "Mash", "Knead")
KITCHEN_HEAT = ("bake", "simmer", "rest")
DISH_KINDS = ("soup", "bread", "stew", "jam", "tea", "cake", "soap", "glue", "ink", "polish")

REAGENTS = ("ash", "brine", "cobalt", "dross", "ether", "flint", "grit", "halite", "iodine", "jade", "kelp", "lime",
            "mica", "nickel", "ochre", "pitch", "quartz", "resin", "slate", "tin")  # fmt: skip
REAGENT_HOURS = (2, 3, 4, 5, 6, 7, 8, 9)
SUBSTANCE_ENDS = ("zine", "thane", "xol", "phos", "drite", "quat")

STARTS = (
    "B",
    "D",
    "F",
    "G",
    "K",
    "L",
    "M",
    "N",
    "P",
    "R",
    "S",
    "T",
    "V",
    "Z",
    "Br",
    "Dr",
    "Gr",
    "Kr",
    "Pr",
    "Tr",
    "St",
)
MIDDLES = ("a", "e", "i", "o", "u")
CODAS = ("l", "m", "n", "r", "s", "v", "b", "d", "g", "k")
