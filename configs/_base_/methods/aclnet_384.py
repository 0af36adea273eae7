# ACL-Net as the paper trains it.
method = dict(
    type='ACLNet',
    teacher_momentum=0.999,
    warmup_iters=1690,  # 10 of 80 epochs
    affinity=dict(channels=128),
    contrast=dict(bank_size=8192, num_anchors=256, tau=0.5, beta=(0.45, 0.75)),
    aggregation=dict(num_clusters=10),
    refinement=dict(local='paper', schedule='sequential', num_iters=10, alphas=(0.3, 0.7)),
    refine_after=1690,
    cutmix=dict(prob=0.5),
    consistency_weight=0.5,
    contrast_weight=0.5,
)
