# U2PL at 384 x 384, with the settings of the public code on Pascal VOC.
method = dict(
    type='U2PL',
    teacher_momentum=0.99,
    total_iters=1.0,  # the whole run
    warmup_iters=169 / 13500,  # 1 of 80 epochs
    consistency_weight=1.0,
    contrast_weight=1.0,
    drop=0.2,
    bank_size=(50000, 30000),
    cutmix=dict(prob=0.5, area=(0.5, 0.5)),
)
