"""LS4: a generative model of series whose latent variables evolve by state spaces; three memories make it.

    prior       z_t ~ N(mu, sigma^2),  (mu, log sigma) from a memory of z_0, ..., z_{t-1}
    decoder     x_t ~ N(m, s^2),       m from a memory of z_0, ..., z_t and x_0, ..., x_{t-1}
    posterior   q(z_t | x) = N,        from a memory of x_0, ..., x_t
    bound       log p(x) >= E_q sum_t [ log p(x_t | x_<t, z_<=t) - KL(q(z_t | x_<=t) || p(z_t | z_<t)) ]

It is a model and not a memory: it gives a density and samples, not features.

| paper     | here      | meaning                                                       |
|-----------|-----------|---------------------------------------------------------------|
| mu, sigma | prior     | linear -> residual state space -> linear, 2 latent_size outputs |
| q         | posterior | the same, reading x                                           |
| m         | decoder   | the same, reading (z_t, x_{t-1})                              |
| s         | log_noise | log standard deviation of each channel                        |

Source: L. Zhou, M. Poli, W. Xu, S. Massaroli, S. Ermon, "Deep Latent State Space Models for Time-Series
Generation", 2023, arXiv:2212.12749, section 3; what each network reads as in the authors' code
(alexzhou907/ls4).
Departures: each network is one residual block of S5 (the paper stacks S4 layers in a pyramid); steps are
evenly spaced (its continuous-time layers also read irregular ones); a series begins from zeros, where theirs
begins from learned values; s is learned, where theirs is set; their second posterior, which reads from the
end, is left out; starts begin a new series.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .s5 import S5
from .stack import Residual


class _Network(eqx.Module):
    """Linear -> residual block of S5 -> linear."""

    enter: eqx.nn.Linear
    memory: Residual
    leave: eqx.nn.Linear

    def __init__(self, in_size: int, width: int, out_size: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 4)
        self.enter = eqx.nn.Linear(in_size, width, key=keys[0])
        self.memory = Residual(S5(width, 2 * width, key=keys[1]), key=keys[2])
        self.leave = eqx.nn.Linear(width, out_size, key=keys[3])

    def step(self, state, x, start):
        state, y = self.memory.step(state, self.enter(x), start)
        return state, self.leave(y)

    def __call__(self, xs, starts):
        _, ys = self.memory.unroll(self.memory.init(), jax.vmap(self.enter)(xs), starts)
        return jax.vmap(self.leave)(ys)


class LS4(eqx.Module):
    """A model of series with ``size`` channels and ``latent_size`` latent ones."""

    prior: _Network
    decoder: _Network
    posterior: _Network
    log_noise: Float[Array, " size"]

    def __init__(self, size: int, latent_size: int, width: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.prior = _Network(latent_size, width, 2 * latent_size, key=keys[0])
        self.decoder = _Network(latent_size + size, width, size, key=keys[1])
        self.posterior = _Network(size, width, 2 * latent_size, key=keys[2])
        self.log_noise = jnp.zeros(size)

    def elbo(
        self, xs: Float[Array, "T size"], starts: Bool[Array, " T"], key: PRNGKeyArray
    ) -> Float[Array, " T"]:
        """One sample of the bound on log p(x), in nats, split over the steps."""
        mean, log_scale = moments(self.posterior(xs, starts))
        zs = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
        prior_mean, prior_log_scale = moments(self.prior(_before(zs, starts), starts))
        expected = self.decoder(jnp.concatenate([zs, _before(xs, starts)], axis=1), starts)
        noise = jnp.exp(self.log_noise)
        likelihood = jax.scipy.stats.norm.logpdf(xs, expected, noise).sum(1)
        ratio = jnp.exp(2 * (log_scale - prior_log_scale))
        apart = ((mean - prior_mean) / jnp.exp(prior_log_scale)) ** 2
        divergence = 0.5 * (ratio + apart - 1) - (log_scale - prior_log_scale)
        return likelihood - divergence.sum(1)

    def sample(
        self, steps: int, key: PRNGKeyArray
    ) -> tuple[Float[Array, "{steps} size"], Float[Array, "{steps} latent"]]:
        """A series of ``steps`` from the model, and its latent variables."""

        def draw(carry, timed):
            (of_prior, of_decoder, z, x), (key, start) = carry, timed
            z_key, x_key = jax.random.split(key)
            of_prior, out = self.prior.step(of_prior, z, start)
            mean, log_scale = moments(out)
            z = mean + jnp.exp(log_scale) * jax.random.normal(z_key, mean.shape)
            of_decoder, expected = self.decoder.step(of_decoder, jnp.concatenate([z, x]), start)
            x = expected + jnp.exp(self.log_noise) * jax.random.normal(x_key, expected.shape)
            return (of_prior, of_decoder, z, x), (x, z)

        latent_size = self.prior.enter.in_features
        assert isinstance(latent_size, int)
        states = self.prior.memory.init(), self.decoder.memory.init()
        begin = (*states, jnp.zeros(latent_size), jnp.zeros_like(self.log_noise))
        timed = jax.random.split(key, steps), jnp.arange(steps) == 0
        return jax.lax.scan(draw, begin, timed)[1]


def moments(out: Float[Array, "*T two_n"]) -> tuple[Array, Array]:
    """(mean, log of the scale) from what a network gives. The scale is a softplus: an exponential would feed
    on itself when a series is drawn, and run off."""
    mean, raw = jnp.split(out, 2, axis=-1)
    # far below 0 softplus is exp, and underflows
    return mean, jnp.where(raw < -15, raw, jnp.log(jax.nn.softplus(jnp.maximum(raw, -15))))


def _before(xs: Float[Array, "T n"], starts: Bool[Array, " T"]) -> Float[Array, "T n"]:
    """x_{t-1} at t; 0 where a series begins."""
    return jnp.where(starts[:, None], 0.0, jnp.roll(xs, 1, axis=0)).at[0].set(0.0)
