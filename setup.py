"""Everything about the package is in pyproject.toml; this only keeps the developers' files out of it.

The root folder is the package, so setuptools would take every script that lies in it for a module.
"""

from setuptools import setup
from setuptools.command.build_py import build_py

DEVELOPERS_FILES = ("dev", "setup")


class BuildPackage(build_py):
    """Builds the package without the scripts that only lie beside it."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """The ``(package, module, file)`` triples of one package."""
        modules = super().find_package_modules(package, package_dir)
        return [found for found in modules if package != "promptgen" or found[1] not in DEVELOPERS_FILES]


setup(cmdclass={"build_py": BuildPackage})
