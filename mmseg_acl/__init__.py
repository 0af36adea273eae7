"""Semi-supervised segmentation for MMSegmentation, polyps in colonoscopy images first.

Importing the package registers its parts with mmseg's registries; a config asks for that with
``custom_imports = dict(imports=['mmseg_acl'])``.
"""

from mmseg_acl._stack import check_stack

check_stack()

from mmseg_acl import datasets, engine, evaluation, models  # noqa: E402

__version__ = '0.1.0'
__all__ = ['datasets', 'engine', 'evaluation', 'models']
