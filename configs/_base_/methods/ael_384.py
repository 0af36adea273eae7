# AEL with the settings of the public code on Pascal VOC; warm-up and the floor of the keep rate are ours.
method = dict(
    type='AEL',
    teacher_momentum=0.99,
    warmup_iters=1690 / 13500,  # 10 of 80 epochs
    consistency_weight=1.0,
    threshold=0.7,
    gamma=1.0,
    min_keep=0.2,
    weight_power=2.0,
    bank_momentum=0.999,
    paste_prob=0.5,
    box_prob=1.0,
)
