"""Builds the C library into the package; without a compiler the package works, more slowly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent / "src"))

from sealtune.native.build import build
from sealtune.native.sources import LIBRARY


class BuildWithLibrary(build_py):
    """Copies the modules, and compiles the library beside them (editable: beside the sources)."""

    def run(self) -> None:
        """Build all; a library that cannot be had is left out."""
        super().run()
        folder = Path("src" if self.editable_mode else self.build_lib, "sealtune", "native")
        try:
            build(folder.resolve() / LIBRARY)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or error
            self.warn(f"the C library was not built, its slow reference will work: {said}")


class WheelForPlatform(bdist_wheel):
    """Wheels are for one kind of processor, and for every Python: the library knows none."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI, platform."""
        return "py3", "none", super().get_tag()[2]


class WithMachineCode(Distribution):
    """Goes where machine code goes."""

    def has_ext_modules(self) -> bool:
        """There is machine code."""
        return True


setup(
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": WheelForPlatform},
    distclass=WithMachineCode,
)
