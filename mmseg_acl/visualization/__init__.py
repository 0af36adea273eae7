"""Pictures of what a model does, and a report made of them."""

from mmseg_acl.visualization.report import Report, read_curves

__all__ = ['Report', 'read_curves']
