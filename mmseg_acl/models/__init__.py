from mmseg_acl.models import losses
from mmseg_acl.models.data_preprocessor import MultiBranchSegDataPreprocessor
from mmseg_acl.models.heads import ACLHead, AffinityHead, CAAHead
from mmseg_acl.models.refinement import LocalAffinity, PseudoLabelRefiner
from mmseg_acl.models.segmentors import ACLNet, MeanTeacher, SemiSupervisedSegmentor

__all__ = [
    'ACLHead',
    'ACLNet',
    'AffinityHead',
    'CAAHead',
    'LocalAffinity',
    'MeanTeacher',
    'MultiBranchSegDataPreprocessor',
    'PseudoLabelRefiner',
    'SemiSupervisedSegmentor',
    'losses',
]
