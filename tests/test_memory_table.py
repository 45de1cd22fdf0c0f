from pathlib import Path

from linmem.memories import LRU, MEMORIES, learned_layers
from linmem.reports.memory_table import equation, layer_of, markdown

ROOT = Path(__file__).parents[1]


def test_the_page_of_all_memories_is_what_the_command_prints():
    assert (ROOT / "docs" / "memories.md").read_text() == markdown(), (
        "run `linmem list --markdown > docs/memories.md`"
    )


def test_a_row_shows_the_equation_that_makes_a_state_from_the_last_one():
    lru = layer_of(MEMORIES["lru"])
    assert isinstance(lru, LRU)
    assert equation(lru).startswith("h_k = lambda * h_{k-1} + gamma * (B u_k)")


def test_learned_layers_are_those_whose_maker_carries_one():
    fixed = {"belief", "belief_logits", "alf", "alf_bank", "alf_self_tuning", "auto", "lof", "trace", "none"}
    of_a_model = {"deep_alf", "deep_alf_random"}
    assert set(learned_layers()) == set(MEMORIES.names()) - fixed - of_a_model
