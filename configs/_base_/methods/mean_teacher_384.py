# Mean Teacher at 384 x 384.
method = dict(
    type='MeanTeacher',
    teacher_momentum=0.999,
    warmup_iters=1690 / 13500,  # 10 of 80 epochs
    consistency_weight=10.0,
    rampup_iters=4000 / 13500,
)
