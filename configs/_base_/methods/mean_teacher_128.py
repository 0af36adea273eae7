# Mean Teacher on the laptop track.
method = dict(
    type='MeanTeacher',
    teacher_momentum=0.99,
    warmup_iters=150 / 1200,
    consistency_weight=1.0,
    rampup_iters=400 / 1200,
)
