"""The reproductions about state spaces: their parts against independent computations, their targets against
rows that break them."""

import jax
import numpy as np

from linmem.evidence import ptd, s4_kernel, stable_ssm


def test_an_output_settles_at_the_transfer_function():
    """A cosine comes out multiplied by |G(i w)| once the start has decayed."""
    hippo, c, systems = ptd.systems(8)
    w, step = 2.0, 0.002
    signal = np.cos(w * step * np.arange(12000))
    for system, _ in systems.values():
        late = ptd.diagonal_output(system, signal, step)[-4000:]
        gain = abs(ptd.diagonal_transfer(system, np.array([w]))[0])
        np.testing.assert_allclose(np.abs(late).max(), gain, rtol=0.02)
    late = ptd.output(hippo, c, signal, step)[-4000:]
    np.testing.assert_allclose(np.abs(late).max(), abs(ptd.transfer(hippo, c, np.array([w]))[0]), rtol=0.02)


def test_the_condition_of_orthonormal_eigenvectors_is_one():
    basis = ptd.legs_normal(8, jax.random.key(0))
    np.testing.assert_allclose(ptd.condition(basis), 1.0, rtol=1e-9)


def test_ptd_targets_are_missed_if_ptd_deviates_as_s4d_does():
    rows, _ = ptd.measure(16)
    rows = [row | {"n": n} for n in ptd.SIZES for row in rows]
    for row in rows:
        if "PTD" in row["system"]:
            row.update(deviation=3.0, noisy=0.3)
    missed = [target.name for target in ptd.targets_of(rows) if not target.holds]
    assert any("stays within" in name for name in missed)
    assert any("Fourier mode" in name for name in missed)


def test_s4_targets_are_missed_if_kernels_differ_or_legs_does_not_converge():
    rows = [{"part": "precision", "cauchy": 2e-5}]
    rows += [{"part": "speed", "length": n, "cauchy": 2.0, "powers": 1.0} for n in (1, 2)]
    rows += [
        {"part": "diagonal", "hippo": name, "state": n, "error": 0.1}
        for name in s4_kernel.HIPPO
        for n in (8, 16)
    ]
    assert not any(target.holds for target in s4_kernel.targets_of(rows))


def test_stable_ssm_targets_need_a_rate_where_direct_fails_and_the_other_converges():
    def rows(direct):
        return [
            {
                "start": stable_ssm.UNIT,
                "map": name,
                "rate": rate,
                "final": [direct if name == "direct" else 0.01] * 3,
            }
            for name in stable_ssm.DECAYS
            for rate in stable_ssm.RATES
        ]

    assert all(target.holds for target in stable_ssm.targets_of(rows(np.inf)))
    assert not any(target.holds for target in stable_ssm.targets_of(rows(0.01)))
