"""Semi-supervised segmentation for MMSegmentation, polyps in colonoscopy images first.

Importing the package registers its parts with mmseg's registries; a config asks for that with
``custom_imports = dict(imports=['mmseg_acl'])``.
"""

from mmseg_acl._stack import check_stack

check_stack()

from mmengine.registry import FUNCTIONS  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402

from mmseg_acl import datasets, engine, evaluation, models, visualization  # noqa: E402
from mmseg_acl.renamed import RENAMED_TYPES, renamed_type  # noqa: E402

for registry in (MODELS, FUNCTIONS):
    for old, new in RENAMED_TYPES.items():
        if new in registry.module_dict:
            registry.register_module(name=old, module=renamed_type(old))

__version__ = '0.1.0'
__all__ = ['datasets', 'engine', 'evaluation', 'models', 'visualization']
