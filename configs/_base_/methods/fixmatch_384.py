# FixMatch with an EMA teacher: threshold, decay and boxes of UniMatch V2's public code, the loss of UniMatch's
# medical variant, and a warm-up of 5 of 80 epochs.
method = dict(
    type='FixMatch',
    teacher_momentum=0.996,
    warmup_iters=845 / 13500,
    threshold=0.95,
    consistency_weight=1.0,
    criterion='dice',
)
