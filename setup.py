"""What pyproject.toml cannot say: the wheel holds a copy of recipes/, so that the documented commands find them."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """build_py, and recipes/ copied into the package (never for an editable install, which reads them in place)."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for path in sorted(Path("recipes").rglob("*")):
                if path.is_file():
                    target = Path(self.build_lib) / "rsiccllm" / path
                    self.mkpath(str(target.parent))
                    self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": BuildWithRecipes})
