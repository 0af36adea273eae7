"""Scoring: the metric, and one checkpoint on several test sets."""

from mmseg_acl.evaluation.polyp_metric import PolypMetric

__all__ = ['PolypMetric']
