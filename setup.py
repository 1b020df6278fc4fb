"""What pyproject.toml cannot say: the wheel holds experiments/ and docs/ inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: Folders of the project, and which of their files the package gets. A checkout is used as it is.
SHIPPED = {"experiments": "*", "docs": "*"}


class BuildWithFolders(build_py):
    """Copies the folders into the package that is built."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name, pattern in SHIPPED.items():
            target = Path(self.build_lib, "cnnstudy", name)
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted(Path(name).glob(pattern)):
                shutil.copy(file, target)


setup(cmdclass={"build_py": BuildWithFolders})
