"""Heads on top of a segmentor's features."""

from .acl_head import ACLHead, Regions
from .affinity_head import Affinity, AffinityHead
from .caa_head import CAAHead

__all__ = ['ACLHead', 'Affinity', 'AffinityHead', 'CAAHead', 'Regions']
