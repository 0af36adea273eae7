from mmseg_acl.models import losses
from mmseg_acl.models.data_preprocessor import MultiViewSegDataPreprocessor
from mmseg_acl.models.heads import (
    ACLHead,
    AffinityHead,
    CAAHead,
    DispersiveBlock,
    ErrorLocalizationNetwork,
    FCDiscriminator,
    FocusedBlock,
)
from mmseg_acl.models.refinement import LocalAffinity, PseudoLabelRefiner
from mmseg_acl.models.segmentors import AEL, CAC, CAFD, ELN, PSMT, U2PL, ACLNet, MeanTeacher, SemiSupervisedSegmentor

__all__ = [
    'ACLHead',
    'ACLNet',
    'AEL',
    'AffinityHead',
    'CAAHead',
    'CAC',
    'CAFD',
    'DispersiveBlock',
    'ELN',
    'ErrorLocalizationNetwork',
    'FCDiscriminator',
    'FocusedBlock',
    'LocalAffinity',
    'MeanTeacher',
    'MultiViewSegDataPreprocessor',
    'PSMT',
    'PseudoLabelRefiner',
    'SemiSupervisedSegmentor',
    'U2PL',
    'losses',
]
