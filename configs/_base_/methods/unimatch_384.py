# UniMatch: threshold and weights of its public code, the loss of its medical variant, and a warm-up of 5 of 80
# epochs.
method = dict(
    type='UniMatch',
    warmup_iters=845 / 13500,
    threshold=0.95,
    consistency_weight=1.0,
    criterion='dice',
    dropout=0.5,
)
