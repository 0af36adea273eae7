# CPS with CutMix: weight 1 and three boxes as the paper has them; Dice and a warm-up of 5 of 80 epochs are for two
# classes.
method = dict(
    type='CPS',
    warmup_iters=845 / 13500,
    consistency_weight=1.0,
    dice=True,
    boxes=dict(count=3, area=(0.25, 0.5)),
)
