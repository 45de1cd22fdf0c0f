import re
from pathlib import Path

import jax
import jax.numpy as jnp

from linmem.measures.operations import multiplications
from linmem.memories import LRU, MEMORIES, learned_layers
from linmem.reports.memory_table import equation, layer_of, markdown
from linmem.tasks import TASKS
from linmem.worlds import WORLDS
from linmem.worlds.model_files import shipped

ROOT = Path(__file__).parents[1]


def test_the_page_of_all_memories_is_what_the_command_prints():
    assert (ROOT / "docs" / "memories.md").read_text() == markdown(), (
        "run `linmem list --markdown > docs/memories.md`"
    )


def test_a_row_shows_the_equation_that_makes_a_state_from_the_last_one():
    lru, _ = layer_of(MEMORIES["lru"])
    assert isinstance(lru, LRU)
    assert equation(lru).startswith("h_k = lambda * h_{k-1} + gamma * (B u_k)")


def test_the_multiplications_of_a_step_are_counted_without_those_of_weights_alone():
    gru, x = layer_of(MEMORIES["gru"])
    step = lambda state, x: gru.step(state, x, jnp.asarray(False))  # noqa: E731
    n = 64
    # two products; three of entries with entries; two halves for each of two sigmoids
    assert multiplications(step, gru.init(), x) == 2 * 3 * n * n + 3 * n + 4 * n
    weights = jnp.ones((3, 5))
    h = jnp.ones(5, jnp.complex64)
    assert multiplications(lambda h: (weights * weights) @ h.real, h) == 15
    assert multiplications(lambda h: h * h, h) == 20
    assert multiplications(lambda h: jax.lax.scan(lambda h, _: (h * h, None), h, length=7)[0], h) == 140


def test_learned_layers_are_those_whose_maker_carries_one():
    fixed = {"belief", "belief_logits", "alf", "alf_bank", "alf_self_tuning", "auto", "lof"}
    fixed |= {"trace", "window", "window_trace", "none"}
    of_raw_steps = {"deep_alf", "deep_alf_random", "learned_trace"}
    assert set(learned_layers()) == set(MEMORIES.names()) - fixed - of_raw_steps


def test_the_readme_counts_what_the_list_names():
    line = next(line for line in (ROOT / "README.md").read_text().splitlines() if "linmem list " in line)
    counts = [int(number) for number in re.findall(r"\d+", line)]
    assert counts == [len(names) for names in (MEMORIES.names(), WORLDS.names(), shipped(), TASKS.names())]
