"""Packaging of mmseg_acl.

The stack below it (torch, mmengine, mmcv, mmseg) comes from one of two families of
distributions with the same import names, so neither is forced: an environment that has one
keeps it, and the extras ``onedl`` and ``openmmlab`` install one.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_requirements(path: Path) -> list[str]:
    """Requirement lines of a pip file, without comments and empty lines."""
    lines = (line.split('#')[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


EXPORT = ['onnx>=1.17', 'onnxruntime>=1.20', 'onnxscript>=0.5', 'safetensors>=0.4']
WEB = ['gradio>=6,<7']

setup(
    name='mmseg_acl',
    version='0.1.0',
    description='Semi-supervised segmentation for MMSegmentation, for polyps first: ACL-Net',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmseg_acl', 'mmseg_acl.*']),
    package_data={'mmseg_acl.datasets': ['lists/*/*.txt'], 'mmseg_acl.experiments': ['paper_tables.csv']},
    python_requires='>=3.10',
    install_requires=[
        'filelock>=4.2',  # earlier ones leave a lock with the processes that a loader has forked
        'matplotlib>=3.7',
        'numpy>=1.24',
        'opencv-python>=4.5',
        'pillow>=9',
        'prettytable>=3',
        'pyyaml>=5',
        'rich>=12',
        'scipy>=1.8',
    ],
    extras_require={
        'onedl': read_requirements(ROOT / 'requirements.txt'),
        'openmmlab': [
            'torch>=2.6,<3',
            'mmengine>=0.10.4,<0.11',
            'mmcv>=2.0.1,<2.2',
            'mmsegmentation>=1.2,<2',
            # These releases were built against NumPy 1.
            'numpy<2',
            # mmseg imports these without naming them.
            'ftfy',
            'regex',
        ],
        # Backbones of mmpretrain on the default stack; it imports torchvision.
        'mmpretrain': ['onedl-mmpretrain>=1.3,<2', 'torchvision'],
        # tools/audit_data.py and the t-SNE of tools/visualize.py.
        'audit': ['ImageHash>=4.3'],
        'figures': ['scikit-learn>=1.3'],
        # tools/export.py, and tools/predict.py with what it wrote.
        'export': EXPORT,
        # tools/serve.py.
        'web': WEB,
        # tools/train.py --tracker.
        'tensorboard': ['tensorboard>=2.14'],
        'wandb': ['wandb>=0.16'],
        'mlflow': ['mlflow>=2.9'],
        # The tests exercise all of them, and a backbone of mmpretrain, with a stand-in for torchvision's few names.
        'dev': [
            *EXPORT,
            *WEB,
            'ImageHash>=4.3',
            'onedl-mmpretrain>=1.3,<2',
            'playwright>=1.50',  # drives an installed Chromium; brings no browser of its own
            'pycocotools>=2.0.7',  # reads back what is written for labelling tools
            'pytest>=8',
            'pytest-xdist>=3.6',  # all cores: half the time on two
            'ruff>=0.9',
            'scikit-learn>=1.3',
        ],
    },
)
