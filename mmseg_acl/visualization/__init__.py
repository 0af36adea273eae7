"""Pictures of what a model does, and a report made of them.

Whatever draws by matplotlib is imported by who draws, not here: it takes longer to import than all of the rest.
"""

from mmseg_acl.visualization.mlflow_backend import MLflowPictureBackend
from mmseg_acl.visualization.refinement_hook import PseudoLabelRefinementHook
from mmseg_acl.visualization.report import Report, read_curves
from mmseg_acl.visualization.run_report import ReportHook

__all__ = ['MLflowPictureBackend', 'PseudoLabelRefinementHook', 'Report', 'ReportHook', 'read_curves']
