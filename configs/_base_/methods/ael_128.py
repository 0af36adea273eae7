# AEL on the laptop track: 128 x 128, 1200 iterations. The memory of the bank is scaled to the short run, and every
# second image receives a box, not every one: early labels are weak. Not searched.
method = dict(
    type='AEL',
    teacher_momentum=0.99,
    warmup_iters=150 / 1200,
    consistency_weight=1.0,
    threshold=0.7,
    gamma=1.0,
    min_keep=0.2,
    weight_power=2.0,
    bank_momentum=0.99,
    paste_prob=0.5,
    box_prob=0.5,
)
