"""Supervised learning of sequences with any memory: embedding, blocks of memory layers, norm, head.

    model = SequenceModel.make(eqx.nn.Embedding, task.n_tokens, task.n_targets, 64, layer, depth=1, key=key)
    state = init(Fit(), model)
    state, losses = advance(Fit(), cross_entropy, TaskBatches(task, 64, 40), state, key, steps=1000)

Real-valued sequences (``eqx.nn.Linear`` in place of ``Embedding``) are classified with ``cross_entropy`` and
forecast with ``squared_error``; a target is scored where the mask holds, so a label of the whole sequence is
a mask at its last step. ``draw`` is any pytree that maps a key to a ``Batch``; a data set is an array in it.
Models of several seeds are trained side by side by ``jax.vmap`` over models, states and keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Inexact, Int, PRNGKeyArray

from ..memories.base import AbstractMemory
from ..memories.stack import Residual
from .base import AbstractTask

Layer = Callable[[int, PRNGKeyArray], AbstractMemory]
"""A layer of equal in and out size, made from (size, key)."""


class Batch(NamedTuple):
    """What is learned from at once.

    inputs:  tokens, or vectors with one more axis.
    targets: classes, or vectors.
    mask:    where the target is scored.
    starts:  where the past is erased.
    """

    inputs: Int[Array, "batch T"] | Float[Array, "batch T features"]
    targets: Int[Array, "batch T"] | Float[Array, "batch T outputs"]
    mask: Bool[Array, "batch T"]
    starts: Bool[Array, "batch T"]


class TaskBatches(eqx.Module):
    """Batches of a task, of sequences of ``shortest`` (default: ``length``) to ``length`` tokens."""

    task: AbstractTask
    batch: int = eqx.field(static=True)
    length: int = eqx.field(static=True)
    shortest: int | None = eqx.field(static=True, default=None)

    def __call__(self, key: PRNGKeyArray) -> Batch:
        sample = self.task.sample(key, self.batch, self.length, self.shortest)
        # a function of the tokens, because XLA would spend seconds on what follows from a constant
        starts = (jnp.arange(self.length) == 0) & (sample.tokens >= 0)
        return Batch(sample.tokens, sample.targets, sample.mask, starts)


class SequenceModel(eqx.Module):
    """Outputs (T, outputs) of inputs (T,) or (T, features)."""

    embed: eqx.nn.Embedding | eqx.nn.Linear
    blocks: tuple[AbstractMemory, ...]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    @classmethod
    def make(
        cls,
        embed: type[eqx.nn.Embedding] | type[eqx.nn.Linear],
        inputs: int,
        outputs: int,
        size: int,
        layer: Layer,
        depth: int,
        *,
        key: PRNGKeyArray,
        residual: bool = True,
    ) -> "SequenceModel":
        """embed: ``Embedding`` of ``inputs`` tokens, or ``Linear`` of vectors of ``inputs`` features.
        residual: without it the layers stand alone, and may give more features than they read."""
        embed_key, key = jax.random.split(key)
        head_key, *keys = jax.random.split(key, 1 + 2 * depth)
        blocks, embedding = [], embed(inputs, size, key=embed_key)
        for layer_key, block_key in zip(keys[::2], keys[1::2], strict=True):
            memory = layer(size, layer_key)
            blocks.append(Residual(memory, key=block_key) if residual else memory)
            size = blocks[-1].out_size
        head = eqx.nn.Linear(size, outputs, key=head_key)
        return cls(embedding, tuple(blocks), eqx.nn.LayerNorm(size), head)

    def __call__(self, inputs: Array, starts: Bool[Array, " T"]) -> Float[Array, "T outputs"]:
        xs = jax.vmap(self.embed)(inputs)
        for block in self.blocks:
            _, xs = block.unroll(block.init(), xs, starts)
        return jax.vmap(lambda x: self.head(self.norm(x)))(xs)


# --- losses: (outputs, targets) -> one number per position


def cross_entropy(outputs: Float[Array, "*b classes"], targets: Int[Array, "*b"]) -> Float[Array, "*b"]:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def squared_error(outputs: Float[Array, "*b k"], targets: Float[Array, "*b k"]) -> Float[Array, "*b"]:
    return jnp.sum((outputs - targets) ** 2, axis=-1)


# --- learning


@dataclass(frozen=True)
class Fit:
    """Settings of the learner: AdamW after a linear warm-up, with clipped gradients."""

    step_size: float = 3e-3
    warmup: int = 50
    """steps until the step size is reached"""
    anneal: int = 0
    """steps, more than of warm-up, at whose end it has fallen to 0 along half a cosine; 0 keeps it"""
    weight_decay: float = 0.0
    """of arrays with two or more axes"""
    max_gradient: float = 1.0
    """largest global norm of a gradient"""


class State(NamedTuple):
    """What the next step needs."""

    model: SequenceModel
    optimiser: optax.OptState


def optimiser(fit: Fit) -> optax.GradientTransformation:
    # optax takes a warm-up of 0 steps for a step size of 0 for ever
    size = optax.linear_schedule(0.0, fit.step_size, fit.warmup) if fit.warmup else fit.step_size
    if fit.anneal:
        size = optax.warmup_cosine_decay_schedule(0.0, fit.step_size, fit.warmup, fit.anneal)

    def matrices(parameters):
        return jax.tree.map(lambda p: p.ndim > 1, parameters)

    return optax.chain(
        optax.clip_by_global_norm(fit.max_gradient),
        optax.adamw(size, weight_decay=fit.weight_decay, mask=matrices),
    )


def init(fit: Fit, model: SequenceModel) -> State:
    return State(model, optimiser(fit).init(eqx.filter(model, eqx.is_inexact_array)))


def advance(
    fit: Fit,
    loss: Callable[[Array, Array], Array],
    draw: Callable[[PRNGKeyArray], Batch],
    state: State,
    key: PRNGKeyArray,
    steps: int,
) -> tuple[State, Float[Array, " steps"]]:
    """``steps`` steps on fresh batches: (state, mean loss of each). Meant to be compiled as a whole
    (`eqx.filter_jit`, ``steps`` static)."""
    transform = optimiser(fit)

    def step(state, key):
        value, gradient = eqx.filter_value_and_grad(mean_loss)(state.model, loss, draw(key))
        learned = eqx.filter(state.model, eqx.is_inexact_array)
        changes, opt_state = transform.update(gradient, state.optimiser, learned)
        return State(eqx.apply_updates(state.model, changes), opt_state), value

    arrays, rest = eqx.partition(state, eqx.is_array)

    def array_step(arrays, key):
        state, value = step(eqx.combine(arrays, rest), key)
        return eqx.filter(state, eqx.is_array), value

    arrays, losses = jax.lax.scan(array_step, arrays, jax.random.split(key, steps))
    return eqx.combine(arrays, rest), losses


def mean_loss(
    model: SequenceModel, loss: Callable[[Array, Array], Array], batch: Batch
) -> Inexact[Array, ""]:
    """Mean over the scored positions; 0 if there is none."""
    outputs = jax.vmap(model)(batch.inputs, batch.starts)
    total = jnp.sum(loss(outputs, batch.targets), where=batch.mask)
    return total / jnp.maximum(jnp.sum(batch.mask), 1)


def accuracy(model: SequenceModel, batch: Batch) -> tuple[Int[Array, " T"], Int[Array, " T"]]:
    """(right, scored): how many targets of each position were named rightly, and how many there are. One
    long batch so answers for all shorter lengths."""
    right = jnp.argmax(jax.vmap(model)(batch.inputs, batch.starts), axis=-1) == batch.targets
    return jnp.sum(right & batch.mask, axis=0), jnp.sum(batch.mask, axis=0)
