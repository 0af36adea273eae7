# PSMT with the values of its public code; an epoch has 169 iterations here.
method = dict(
    type='PSMT',
    teacher_momentum=0.996,
    warmup_iters=845 / 13500,  # 5 of 80 epochs
    alternate_every=169 / 13500,  # an epoch
    threshold=0.6,
    consistency_weight=1.5,
    rampup_iters=2028 / 13500,  # 12 epochs
    cutmix=dict(prob=1.0, beta=(4.0, 4.0)),
    noise=dict(epsilon=0.1),
)
