# ELN on the laptop track: the decay and the phases are scaled to 1200 iterations. Its feature map of 16 x 16 fits
# into one crop.
method = dict(
    type='ELN',
    teacher_momentum=0.99,
    warmup_iters=150 / 1200,
    eln_iters=150 / 1200,
    decoder_ratios=(1.5, 3.0),
    localization=dict(channels=32),
    threshold=0.5,
    contrast_weight=0.1,
    tau=0.5,
)
