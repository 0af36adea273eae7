"""Data sets, samplers and transforms, registered with mmseg."""

from mmseg_acl.datasets.geometry import MarkValid, PadFields, RandomFlipFields, RandomResizeAndCrop
from mmseg_acl.datasets.listed_frames import ListedFrames
from mmseg_acl.datasets.partitions import draw_partitions, read_list, shipped_lists
from mmseg_acl.datasets.polyp import (
    CVC300Dataset,
    CVCClinicDBDataset,
    CVCColonDBDataset,
    ETISLaribPolypDBDataset,
    KvasirSEGDataset,
    PolypDataset,
    default_data_root,
)
from mmseg_acl.datasets.polyp_masks import LoadPolypMask, read_polyp_mask
from mmseg_acl.datasets.samplers import Draw, SourceRatioSampler
from mmseg_acl.datasets.semi_supervised import SemiSupervisedDataset
from mmseg_acl.datasets.synthetic import write_synthetic
from mmseg_acl.datasets.transforms import (
    BlackFrames,
    ColorJitter,
    RandomGaussianBlur,
    RandomGrey,
    Views,
    view_collate,
)
from mmseg_acl.datasets.two_crops import TwoCrops
from mmseg_acl.datasets.unlabelled_folder import UnlabelledFolder

__all__ = [
    'BlackFrames',
    'CVC300Dataset',
    'CVCClinicDBDataset',
    'CVCColonDBDataset',
    'ColorJitter',
    'Draw',
    'ETISLaribPolypDBDataset',
    'KvasirSEGDataset',
    'ListedFrames',
    'LoadPolypMask',
    'MarkValid',
    'PadFields',
    'PolypDataset',
    'RandomFlipFields',
    'RandomGaussianBlur',
    'RandomGrey',
    'RandomResizeAndCrop',
    'SemiSupervisedDataset',
    'SourceRatioSampler',
    'TwoCrops',
    'UnlabelledFolder',
    'Views',
    'view_collate',
    'default_data_root',
    'draw_partitions',
    'read_list',
    'read_polyp_mask',
    'shipped_lists',
    'write_synthetic',
]
