"""Compiles recexp/kernel/*.c when a wheel is built or recexp is installed for editing; takes the README's links out.

Without a C compiler, or on systems other than Linux, nothing is compiled and torch does the work of the kernels.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

FOLDER = Path("recexp", "kernel")
# Per processor, each library's name and target architecture; library.py takes what the machine at hand can run.
LIBRARIES = {"x86_64": {"avx512": "x86-64-v4", "avx2": "x86-64-v3"}}


class Kernels(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        built = list(filter(None, (self.compile(*library) for library in LIBRARIES.get(machine(), {}).items())))
        if built:
            build_data["artifacts"] += [f"/{path.as_posix()}" for path in built]
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{machine()}"

    def compile(self, name: str, architecture: str) -> Path | None:
        """The library of that name, None if it cannot be compiled."""
        path = FOLDER / f"kernel_{name}.so"
        Path(self.root, path).unlink(missing_ok=True)  # a process that has it open must not see it overwritten
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            self.app.display_warning(f"no C compiler: {path.name} is not built, and training will be slower")
            return None
        flags = ["-O3", f"-march={architecture}", "-shared", "-fPIC", "-fvisibility=hidden"]
        sources = sorted(source.name for source in Path(self.root, FOLDER).glob("*.c"))
        command = [compiler, *flags, "-o", path.name, *sources]
        done = subprocess.run(command, cwd=Path(self.root, FOLDER), capture_output=True, text=True)
        if done.returncode:
            self.app.display_warning(f"{path.name} is not built, and training will be slower: {done.stderr.strip()}")
        return None if done.returncode else path


class Readme(MetadataHookInterface):
    """The package's description, where a link to a file of the repository would lead nowhere: its text stays."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": without_links(text)}


def without_links(text: str) -> str:
    """Markdown without the pictures and links whose targets are no addresses."""
    text = re.sub(r"!\[[^]]*\]\((?!https?://)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^]]*)\]\((?!https?://)[^)]*\)", r"\1", text)


def machine() -> str:
    return platform.machine() if platform.system() == "Linux" else ""
