"""One episode as lines of text, with the beliefs beside it."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.text import Text

from ..experiments.evaluate import Episode

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 22
"""Of what is written for an observation or an action."""


def heading(episode: Episode) -> Text:
    """What the columns of ``lines`` are."""
    text = Text(
        f"{'step':>5}  {'observation':{WIDTH}} {'action':{WIDTH}} {'reward':>8} {'value':>8}", style="bold"
    )
    if episode.belief is not None:
        text.append(f"  {'true':>{_state_width(episode)}}  {'memory':{_bars_width(episode)}}  exact belief")
    return text


def lines(episode: Episode) -> Iterator[Text]:
    """One line per slot. A bar's height is the probability of a hidden state; the true state is marked."""
    words = episode.words
    for t in range(len(episode.reward)):
        observation = _named(words.observations, _tree_at(episode.observation, t))
        text = Text(f"{t:>5}  {_short(observation):{WIDTH}} ")
        if episode.acts[t]:
            text.append(f"{_short(_named(words.actions, episode.action[t])):{WIDTH}} ")
            reward = float(episode.reward[t])
            text.append(f"{reward:>+8.3f}", style="green" if reward > 0 else "red" if reward < 0 else "")
        else:
            text.append(f"{'(cut off)':{WIDTH}} {'':8}")
        value = float(episode.value[t])
        text.append(f" {'-':>8}" if math.isnan(value) else f" {value:>+8.3f}")
        if episode.belief is not None and episode.decoded is not None and episode.hidden is not None:
            hidden = int(episode.hidden[t])
            text.append(f"  {_short(_named(words.states, hidden)):>{_state_width(episode)}}  ")
            for distribution in (episode.decoded[t], episode.belief[t]):
                for state, probability in enumerate(distribution):
                    text.append(bar(probability), style="reverse" if state == hidden else "cyan")
                text.append(" " * (2 + _bars_width(episode) - len(distribution)))
        yield text


def bar(probability: float) -> str:
    """A probability as a block of nine heights; only what rounds to 0 is blank."""
    return BARS[round(8 * min(max(float(probability), 0.0), 1.0))]


def _state_width(episode: Episode) -> int:
    return max(4, *(len(_short(name)) for name in episode.words.states or ("",)))


def _bars_width(episode: Episode) -> int:
    return 0 if episode.belief is None else max(len("memory"), episode.belief.shape[1])


def _named(names: tuple[str, ...] | None, value: Any) -> Any:
    return value if names is None else names[int(value)]


def _tree_at(tree: Any, t: int) -> Any:
    return {name: part[t] for name, part in tree.items()} if isinstance(tree, dict) else tree[t]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        text = " ".join(f"{name}={_short(part)}" for name, part in value.items())
    elif isinstance(value, str):
        text = value
    elif np.ndim(value) == 0:
        text = f"{value:.3g}"
    elif np.size(value) > 6:
        text = f"array {'x'.join(map(str, np.shape(value)))}"
    else:
        text = " ".join(f"{x:.2g}" for x in np.ravel(value))
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
