# CAC at 384 x 384; temperature, threshold and weight of the paper.
method = dict(
    type='CAC',
    warmup_iters=845 / 13500,  # 5 of 80 epochs
    projector=dict(hidden_channels=256, out_channels=128),
    num_keys=6400,
    threshold=0.75,
    tau=0.1,
    contrast_weight=0.1,
)
