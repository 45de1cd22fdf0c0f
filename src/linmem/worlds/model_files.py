"""Problems by name: a file of the user's, in either format, or one that the package ships."""

import difflib
import hashlib
import math
from importlib import resources

from ..core.registry import UnknownName
from . import dotpomdp, pomdpx
from .dotpomdp import FormatError
from .problems.generated import GENERATED
from .sparse import SparsePOMDP
from .table_world import TableWorld

ENDINGS = (".pomdp", ".pomdpx")
MOST_BYTES = 200_000_000


def is_model_name(name: str) -> bool:
    """Whether ``name`` names a problem file, by its ending."""
    return name.lower().endswith(ENDINGS)


def shipped() -> list[str]:
    """The names of the problems in the package."""
    folder = resources.files("linmem.worlds") / "problems"
    return sorted([*GENERATED, *(file.name for file in folder.iterdir() if is_model_name(file.name))])


def read_model(name: str, *, strict: bool = False) -> SparsePOMDP:
    """The problem in the file ``name``, or, if there is no such file, the shipped problem of that name.

    The format is told from the content. Raises UnknownName if there is neither, and FormatError or TooLarge
    (both ValueError) if the content is wrong.
    """
    try:
        with open(name, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        if name in GENERATED:
            return GENERATED[name]()
        if name not in shipped():
            stems = {each.split(".")[0]: each for each in shipped()}
            near = difflib.get_close_matches(name.split("/")[-1].split(".")[0], stems, n=1, cutoff=0.5)
            meant = f"did you mean '{stems[near[0]]}'? " if near else ""
            raise UnknownName(
                f"cannot read '{name}' ({error.strerror}); {meant}shipped problems: {', '.join(shipped())}"
            ) from error
        data = (resources.files("linmem.worlds") / "problems" / name).read_bytes()
    if len(data) > MOST_BYTES:
        raise FormatError(f"{name}: has more than {MOST_BYTES} bytes")
    if data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return pomdpx.loads(data, name)
    return dotpomdp.loads(data.decode("utf-8", errors="replace"), name, strict=strict)


def file_digest(name: str) -> str | None:
    """The SHA-256 of the file that ``read_model`` reads; None for a shipped problem, whose name says all."""
    try:
        with open(name, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def model_world(name: str, episode_length: int | None = None) -> TableWorld:
    """The problem as a world for agents.

    Its problems go on for ever. An episode ends where nothing can be earned any more (states that are never
    left and never pay), and is otherwise truncated after ``episode_length`` steps: by default, when the
    discount has fallen below 1%, or after 1000 steps. The first observation, before any action, is uniformly
    random. The agent should discount with ``world.tables().discount``.
    """
    model = read_model(name)
    if episode_length is None:
        discount = model.discount
        negligible = 1 if discount == 0 else 1000 if discount == 1 else math.log(0.01) / math.log(discount)
        episode_length = min(1000, math.ceil(negligible))
    return TableWorld(model.dense(), episode_length, model.terminal())
