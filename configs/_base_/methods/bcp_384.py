# BCP with the values of its public code; the warm-up, pasting between labelled images, has 10 of 80 epochs.
method = dict(
    type='BCP',
    teacher_momentum=0.99,
    warmup_iters=1690 / 13500,
    consistency_weight=0.5,
    box=2 / 3,
)
