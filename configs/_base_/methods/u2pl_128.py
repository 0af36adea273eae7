# U2PL on the laptop track: 128 x 128, 1200 iterations. An image has a ninth of the pixels, and so has the
# bank. Not searched; contrast_weight is lowered to a few tenths of the supervised loss.
method = dict(
    type='U2PL',
    teacher_momentum=0.99,
    total_iters=1.0,  # the whole run
    warmup_iters=150 / 1200,
    consistency_weight=1.0,
    contrast_weight=0.1,
    drop=0.2,
    bank_size=(5500, 3300),
    cutmix=dict(prob=0.5, area=(0.5, 0.5)),
)
