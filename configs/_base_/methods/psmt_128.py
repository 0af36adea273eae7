# PSMT on the laptop track: 128 x 128, 1200 iterations. The ramp has the paper's share of the run. Each teacher is
# updated in half of the steps, so that a decay of 0.98 leaves it as far behind as 0.99 leaves a single one; a turn is
# as long as that average reaches back, where the paper's share of the run (15 iterations) would keep the two alike.
method = dict(
    type='PSMT',
    teacher_momentum=0.98,
    warmup_iters=150 / 1200,
    alternate_every=50 / 1200,
    threshold=0.6,
    consistency_weight=1.5,
    rampup_iters=180 / 1200,
    cutmix=dict(prob=1.0, beta=(4.0, 4.0)),
    noise=dict(epsilon=0.1),
)
