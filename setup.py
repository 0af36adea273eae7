"""What pyproject.toml cannot say: the wheel holds configs and tools, too, where OpenMMLab's packages have theirs."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = ('configs', 'tools', 'model-index.yml')


class BuildWithConfigs(build_py):
    """Copies what is ``SHIPPED`` to ``mmseg_acl/.mim``, where mim and mmengine look for it.

    An editable install copies nothing: :mod:`mmseg_acl.shipped` finds the files where they are.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, copy in self._copies().items():
                self.mkpath(str(Path(copy).parent))
                self.copy_file(source, copy)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self._copies().values()]

    def get_source_files(self) -> list[str]:
        # What is built from goes into the sdist.
        return [*super().get_source_files(), *self._copies()]

    def _copies(self) -> dict[str, str]:
        """Each shipped file, from the root on, and its copy in the build."""
        found = (path for name in SHIPPED for path in [ROOT / name, *(ROOT / name).rglob('*')])
        files = (path.relative_to(ROOT) for path in found if path.is_file() and path.suffix != '.pyc')
        return {str(path): str(Path(self.build_lib, 'mmseg_acl', '.mim', path)) for path in sorted(files)}


setup(cmdclass={'build_py': BuildWithConfigs})
