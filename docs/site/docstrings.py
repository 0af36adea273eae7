"""What docstrings have of reStructuredText becomes Markdown: roles (``:class:`~package.module.Name```) and ``::``."""

import re

import griffe

CODE_FOLLOWS = re.compile(r'::(?=\n\n? {4})')
ROLE = re.compile(r':(?:class|func|meth|mod|attr|data):`(~?)([^`]+)`')


def _code(found: re.Match) -> str:
    name = found[2]
    return f'`{name.rpartition(".")[2] if found[1] else name}`'


class Markdown(griffe.Extension):
    """Rewrites the docstring of each object as it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring:
            obj.docstring.value = CODE_FOLLOWS.sub(':', ROLE.sub(_code, obj.docstring.value))
