# CAFD on the laptop track: the schedule is scaled to 1200 iterations, and the discriminator has half the channels, or
# it would cost as much as a network. The weight of the consistency is that of Mean Teacher's search: with 10 a run
# was no better than SupOnly after 600 iterations (docs/methods.md).
method = dict(
    type='CAFD',
    warmup_iters=150 / 1200,
    focused=dict(channels=64),
    dispersive=dict(channels=64, dilations=(1, 2, 4, 8)),
    discriminator=dict(channels=(32, 64, 128, 256)),
    adversarial_weights=(0.1, 0.001),
    consistency_weight=1.0,
    rampup_iters=400 / 1200,
    label_weight=0.5,
    labels_after=300 / 1200,
    confidence=0.2,
    truth_stride=8,  # where the logits stand
)
