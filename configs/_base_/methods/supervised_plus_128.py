# supervised_strong with the affinity loss of ACL-Net+, on the laptop track.
_base_ = './supervised_plus_384.py'
method = dict(teacher_momentum=0.99)
