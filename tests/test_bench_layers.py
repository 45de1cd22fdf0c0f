import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linmem.core.registry import UnknownName
from linmem.evidence import bench_layers, peers, timing
from linmem.memories import LRU, learned_layers


def test_operations_of_a_step_are_those_of_its_products_and_a_few_a_state():
    n, size = 24, 40
    counted = bench_layers.operations(LRU(size, n, key=jax.random.key(0)), size)
    products = 2 * (2 * n * size) + 2 * (2 * n * size)
    assert products <= counted <= products + 40 * (n + size)


def test_a_target_holds_by_speed_over_the_best_peer_or_by_nearness_to_the_floor():
    def row(speedup, floors):
        return {"layer": "gru", "steps": 8, "speedup": speedup, "floors": floors, "best": "memax"}

    rows = [row(1.6, 9.0), row(1.4, 1.9), row(1.4, 2.1), row(None, 1.0)]
    assert [t.holds for t in bench_layers._targets(rows)] == [True, True, False]


def test_a_layer_with_more_features_than_inputs_can_be_timed(monkeypatch):
    monkeypatch.setattr(bench_layers, "BATCH", 2)
    monkeypatch.setattr(bench_layers, "SIZE", 8)
    candidates = bench_layers._candidates(learned_layers()["hiss"](8, jax.random.key(0)), {})
    call, reason = bench_layers._ready(*candidates["forward + backward"], length=6, time_axis=0, longest=60.0)
    assert call is not None and reason is None


def test_an_unknown_layer_is_named_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"unknown layer 'lrru'; known: .*lru"):
        bench_layers.main(only=("lrru",))


def test_a_library_that_cannot_be_imported_is_left_out_with_the_reason(monkeypatch):
    def broken():
        raise ImportError("no module named memax")

    monkeypatch.setattr(peers, "_memax", broken)
    monkeypatch.setattr(peers, "_memorax", lambda: {"lru": None})
    found, missing = peers.peers()
    assert found == {"lru": {"memorax": None}}
    assert missing == ["memax is left out: ImportError: no module named memax"]


def test_programs_are_timed_in_turn_each_after_a_call_of_its_own(monkeypatch):
    calls, clock = [], iter(range(1000))
    monkeypatch.setattr(timing, "WARM", 0.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))

    def program(name, took):
        def call():
            calls.append(name)
            for _ in range(took if calls[-2:] == [name, name] else 10 * took):
                next(clock)

        return call

    seconds = timing.medians({"a": program("a", 4), "b": program("b", 7)}, 3)
    assert "".join(calls) == "ab" + "aabb" * 3
    assert seconds == {"a": 5.0, "b": 8.0}  # the clock ticks once more when it is read
    calls.clear()
    timing.medians({"alone": program("a", 1)}, 3)
    assert "".join(calls) == "aaaa"


def test_the_machine_is_measured_in_the_same_turns(monkeypatch):
    monkeypatch.setattr(timing, "_probes", lambda: ({"product": None, "sum": None}, 60, 90))
    monkeypatch.setattr(timing, "medians", lambda programs, repeats: dict(zip(programs, (1.0, 2.0, 3.0))))  # noqa: B905
    seconds, machine = timing.beside_machine({"layer": lambda: None}, 5)
    assert seconds == {"layer": 1.0} and machine == (30.0, 30.0)
    rows = [{"layer": "s5"}, {"peak": 2e9, "bandwidth": 1e9}, {"peak": 4e9, "bandwidth": 3e9}]
    assert timing.described(rows).startswith("machine: 3 GFLOP/s, 2.0 GB/s, ")
    assert "GFLOP" not in timing.described(rows[:1])


def test_products_written_for_rows_are_the_complex_products():
    from linmem.memories.products import complex_times, real_of_times

    rng = np.random.default_rng(0)
    m, x, h = rng.normal(size=(2, 5, 3)), rng.normal(size=3), rng.normal(size=3) + 1j * rng.normal(size=3)
    full = m[0] + 1j * m[1]
    f = lambda a: jnp.asarray(a, jnp.float32)  # noqa: E731
    np.testing.assert_allclose(complex_times(f(m), f(x)), full @ x, rtol=1e-5)
    got = real_of_times(f(m), jnp.asarray(h, jnp.complex64))
    np.testing.assert_allclose(got, (full @ h).real, rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "asked", "words"),
    [
        ("always [madvise] never", "a=1:glibc.malloc.hugetlb=1", "huge pages"),
        ("always [madvise] never", "", f"small pages (GLIBC_TUNABLES={timing._ASKED} asks for huge ones)"),
        ("[always] madvise never", "", "huge pages"),
        ("always madvise [never]", "glibc.malloc.hugetlb=1", "small pages"),
        (None, "glibc.malloc.hugetlb=1", "small pages"),
    ],
)
def test_benches_say_which_pages_large_arrays_get(tmp_path, monkeypatch, kernel, asked, words):
    monkeypatch.setattr(timing, "_KERNEL", tmp_path / "enabled")
    monkeypatch.setenv("GLIBC_TUNABLES", asked)
    if kernel is not None:
        (tmp_path / "enabled").write_text(kernel + "\n")
    assert timing.pages() == words
