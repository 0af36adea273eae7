"""A user's own folders: which files are pairs, what the masks mean, what belongs together, what is held out."""

from mmseg_acl.datasets.own.inspection import OwnData, Request, inspect_own_data

__all__ = ['OwnData', 'Request', 'inspect_own_data']
