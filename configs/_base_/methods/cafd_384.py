# CAFD at 384 x 384. Pseudo-labels begin at a quarter of the run, as at 5000 of 20000 iterations in Hung et al. 2018.
method = dict(
    type='CAFD',
    warmup_iters=1690 / 13500,  # 10 of 80 epochs
    focused=dict(channels=256),
    dispersive=dict(channels=256, dilations=(1, 3, 6, 12)),
    discriminator=dict(channels=(64, 128, 256, 512)),
    adversarial_weights=(0.1, 0.001),
    consistency_weight=10.0,
    rampup_iters=4000 / 13500,
    label_weight=0.5,
    labels_after=3375 / 13500,
    confidence=0.2,
    truth_stride=8,  # where the logits stand
)
