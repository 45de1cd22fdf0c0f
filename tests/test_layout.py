"""The tree keeps its promise: a folder imports only from the folders to its left."""

import ast
from pathlib import Path

import linmem

ORDER = (
    "core",
    "worlds",
    "certificates",
    "memories",
    "planning",
    "tasks",
    "agents",
    "measures",
    "experiments",
    "reports",
    "evidence",
    "cli",
    "__main__",
)
MAY_TOUCH_DISK = {"__main__", "experiments", "reports", "evidence", "cli"}
ROOT = Path(linmem.__file__).parent
FILES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


def folder(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Top folders of linmem, and other top packages, that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(path.relative_to(ROOT.parent).parts[:-1])
            module = node.module or ""
            if node.level:
                module = ".".join([*base[: len(base) - node.level + 1], *([module] if module else [])])
            names = [module] if module != "linmem" else [f"linmem.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {
            ".".join(name.split(".")[:2]) if name.startswith("linmem.") else name.split(".")[0]
            for name in names
        }
    return found


def test_a_folder_imports_only_from_the_folders_to_its_left():
    for path in FILES:
        allowed = ORDER[: ORDER.index(folder(path)) + 1]
        for name in imported(path):
            if name.startswith("linmem."):
                assert name.split(".")[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_only_the_folders_on_the_right_touch_disk_clock_or_terminal():
    for path in FILES:
        if folder(path) not in MAY_TOUCH_DISK:
            outside = imported(path) & {"pathlib", "os", "time", "shutil", "rich", "tyro", "sys"}
            assert not outside, f"{path.relative_to(ROOT)} imports {outside}"
