"""Heads on top of a segmentor's features."""

from .acl_head import ACLHead, Regions
from .affinity_head import Affinity, AffinityHead
from .caa_head import CAAHead
from .discriminator import FCDiscriminator
from .error_localization import ErrorLocalizationNetwork
from .focused_dispersive import DispersiveBlock, FocusedBlock

__all__ = [
    'ACLHead',
    'Affinity',
    'AffinityHead',
    'CAAHead',
    'DispersiveBlock',
    'ErrorLocalizationNetwork',
    'FCDiscriminator',
    'FocusedBlock',
    'Regions',
]
