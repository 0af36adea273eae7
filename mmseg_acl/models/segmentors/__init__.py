from mmseg_acl.models.segmentors.aclnet import ACLNet
from mmseg_acl.models.segmentors.ael import AEL
from mmseg_acl.models.segmentors.bcp import BCP
from mmseg_acl.models.segmentors.cac import CAC
from mmseg_acl.models.segmentors.cafd import CAFD
from mmseg_acl.models.segmentors.corrmatch import CorrMatch
from mmseg_acl.models.segmentors.cps import CPS
from mmseg_acl.models.segmentors.eln import ELN
from mmseg_acl.models.segmentors.fixmatch import FixMatch
from mmseg_acl.models.segmentors.mean_teacher import MeanTeacher
from mmseg_acl.models.segmentors.psmt import PSMT
from mmseg_acl.models.segmentors.semi_supervised import SemiSupervisedSegmentor
from mmseg_acl.models.segmentors.supervised_ema import SupervisedEMA
from mmseg_acl.models.segmentors.supervised_plus import SupervisedPlus
from mmseg_acl.models.segmentors.u2pl import U2PL
from mmseg_acl.models.segmentors.unimatch import UniMatch
from mmseg_acl.models.segmentors.unimatch_v2 import UniMatchV2

__all__ = [
    'ACLNet',
    'AEL',
    'BCP',
    'CAC',
    'CAFD',
    'CPS',
    'CorrMatch',
    'ELN',
    'FixMatch',
    'MeanTeacher',
    'PSMT',
    'SemiSupervisedSegmentor',
    'SupervisedEMA',
    'SupervisedPlus',
    'U2PL',
    'UniMatch',
    'UniMatchV2',
]
