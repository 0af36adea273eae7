# ACL-Net on the laptop track: 128 x 128, 1200 iterations. consistency_weight, affinity_weight, feature_source,
# CutMix, num_iters and weighted were chosen on kvasir/dev (results/laptop/settings.md); contrast_weight and the
# teacher's decay suit the short run.
method = dict(
    type='ACLNet',
    teacher_momentum=0.99,
    warmup_iters=150,
    affinity=dict(channels=128),
    contrast=dict(bank_size=8192, num_anchors=256, tau=0.5, beta=(0.45, 0.75)),
    aggregation=dict(num_clusters=10),
    # Distances scaled to the image: 8 of 128 pixels reach as far as the paper's 24 of 384.
    refinement=dict(local=dict(dilations=(1, 2, 3, 4, 6, 8)), num_iters=20, alphas=(0.3, 0.7), weighted=True),
    refine_after=100,
    feature_source=2,  # of the encoder, 96 channels at stride 8
    cutmix=dict(prob=0.0),
    consistency_weight=1.0,
    contrast_weight=0.05,
    affinity_weight=2.0,
)
