# CAC on the laptop track: 128 x 128, 1200 iterations. All 1024 cells of a view become keys. Not searched.
method = dict(
    type='CAC',
    warmup_iters=150 / 1200,
    projector=dict(hidden_channels=128, out_channels=128),
    num_keys=1024,
    threshold=0.75,
    tau=0.1,
    contrast_weight=0.1,
)
