"""Builds the compiled kernels (`src/linmem/core/native`) when the package is installed, where a C++ compiler
is found; without one everything works, and some layers are slower."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("src/linmem/core/native")
# plain functions in a shared library, which XLA calls; no extension module of Python
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
# what every such processor of the last ten years has; the library asks before it is used
PROCESSORS = {"x86_64": ["-march=x86-64-v3"], "AMD64": ["-march=x86-64-v3"]}


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        library = Path(self.root) / NATIVE / "kernels.so"
        problem = build(library)
        if problem:
            self.app.display_warning(f"linmem is installed without compiled kernels: {problem}")
            return
        build_data["artifacts"].append(str(NATIVE / "kernels.so"))
        build_data["pure_python"], build_data["infer_tag"] = False, True


def build(library: Path) -> str | None:
    """Compiles; what went wrong, if anything."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if sys.platform == "win32" or compiler is None:
        return "no C++ compiler was found"
    import jaxlib

    headers = Path(jaxlib.__file__).parent / "include"
    flags = [*FLAGS, *PROCESSORS.get(platform.machine(), []), "-isystem", str(headers)]
    with tempfile.TemporaryDirectory() as folder:

        def compiled(source: Path) -> str:
            made = str(Path(folder) / f"{source.stem}.o")
            run([compiler, *flags, "-c", str(source), "-o", made])
            return made

        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                parts = list(pool.map(compiled, sorted(library.parent.glob("*.cpp"))))
            whole = Path(folder) / library.name
            run([compiler, "-shared", "-o", str(whole), *parts])
            beside = library.with_suffix(f".{os.getpid()}")  # a process that has the old one open keeps it
            shutil.copy(whole, beside)
            beside.replace(library)
        except (OSError, subprocess.CalledProcessError) as error:
            library.unlink(missing_ok=True)
            return (getattr(error, "stderr", None) or str(error)).strip()
    return None


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
