# ACL-Net as the paper has it, as far as it says: docs/aclnet.md tells of each key whether it is printed or a reading.
method = dict(
    type='ACLNet',
    teacher_momentum=0.999,
    warmup_iters=1690 / 13500,  # 10 of 80 epochs
    feature_source=2,  # of the encoder: 1024 channels of R50, 384 of Swin-T
    affinity=dict(channels=128),
    contrast=dict(bank_size=8192, num_anchors=256, tau=0.5, beta=(0.45, 0.75)),
    aggregation=dict(num_clusters=10),
    refinement=dict(local=dict(w1=0.2, w2=0.2, w3=0.5), schedule='sequential', num_iters=10, alphas=(0.3, 0.7)),
    refine_after=0,  # after the warm-up
    cutmix=dict(prob=0.5),
    consistency_weight=0.5,
    contrast_weight=0.5,
)
