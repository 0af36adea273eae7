# supervised_strong with the affinity loss of ACL-Net+, of which these settings are; no unlabelled image is needed.
method = dict(
    type='SupervisedPlus',
    teacher_momentum=0.999,
    feature_source=2,  # of the encoder
    affinity=dict(channels=128),
    affinity_weight=2.0,
)
