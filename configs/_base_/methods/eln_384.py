# ELN at 384 x 384. Decay, threshold, temperature and crops are those of the public code, whose phases are 14 % and
# 10 % of the run: here the warm-up that all methods have, and 8 epochs. The ratios are for two classes.
method = dict(
    type='ELN',
    teacher_momentum=0.995,
    warmup_iters=1690 / 13500,  # 10 of 80 epochs
    eln_iters=1350 / 13500,
    decoder_ratios=(2.0, 5.0),
    localization=dict(channels=64),
    threshold=0.5,
    contrast_weight=0.1,
    tau=0.5,
    num_crops=8,
    crop_size=32,
)
