"""Supervised sequence tasks by name: what can a memory track, recall, select?"""

from functools import partial

from ..core.registry import Registry
from .arithmetic import BracketArithmetic, ModularArithmetic
from .automata import Automaton, cycle_navigation, even_pairs, parity, random_automaton, word_problem
from .base import AbstractTask, Sample
from .groups import alternating, cyclic, symmetric
from .recall import AssociativeRecall, Induction, SelectiveCopying

__all__ = [
    "TASKS",
    "AbstractTask",
    "AssociativeRecall",
    "Automaton",
    "BracketArithmetic",
    "Induction",
    "ModularArithmetic",
    "Sample",
    "SelectiveCopying",
    "cycle_navigation",
    "even_pairs",
    "parity",
    "random_automaton",
    "word_problem",
]

CHOMSKY = "Deletang et al. 2022, arXiv:2207.02098"
ILLUSION = "Merrill et al. 2024, arXiv:2404.08819"
RANDOM = "Terzic et al. 2024, arXiv:2412.19350"

TASKS = Registry("task")
TASKS.add("parity", parity, "whether the number of ones is odd", CHOMSKY)
TASKS.add("even_pairs", even_pairs, "whether the number of changes is even", CHOMSKY)
TASKS.add("cycle_navigation", cycle_navigation, "the place on a ring of 5 after steps -1, 0, +1", CHOMSKY)
TASKS.add("modular_arithmetic", ModularArithmetic, "value of digits with + - * modulo 5", CHOMSKY)
TASKS.add("bracket_arithmetic", BracketArithmetic, "the same with brackets", CHOMSKY)
for _name, _group in (
    ("z3", cyclic(3)),
    ("z5", cyclic(5)),
    ("s3", symmetric(3)),
    ("a4", alternating(4)),
    ("s4", symmetric(4)),
    ("a5", alternating(5)),
    ("s5", symmetric(5)),
):
    TASKS.add(
        f"word_{_name}",
        partial(word_problem, _group),
        f"product of random elements of {_name[0].upper()}_{_name[1]}",
        ILLUSION,
    )
TASKS.add("random_automaton", partial(random_automaton, 0), "states moved by random permutations", RANDOM)
TASKS.add(
    "commutative_automaton",
    partial(random_automaton, 0, commutative=True),
    "the same with tokens that commute",
    RANDOM,
)
TASKS.add(
    "associative_recall",
    AssociativeRecall,
    "the values that stood beside many keys",
    "Arora et al. 2023, arXiv:2312.04927",
)
TASKS.add(
    "selective_copying",
    SelectiveCopying,
    "items among noise, given back in order",
    "Gu and Dao 2023, arXiv:2312.00752",
)
TASKS.add("induction", Induction, "the token that followed a sign", "Gu and Dao 2023, arXiv:2312.00752")
