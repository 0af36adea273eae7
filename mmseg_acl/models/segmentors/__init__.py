from mmseg_acl.models.segmentors.aclnet import ACLNet
from mmseg_acl.models.segmentors.mean_teacher import MeanTeacher
from mmseg_acl.models.segmentors.semi_supervised import SemiSupervisedSegmentor

__all__ = ['ACLNet', 'MeanTeacher', 'SemiSupervisedSegmentor']
