# CAC at 384 x 384; temperature, threshold and weight of the paper.
_base_ = './deeplabv3_r50-d8.py'
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='CAC',
    segmentor=segmentor,
    warmup_iters=845,  # 5 of 80 epochs
    projector=dict(hidden_channels=256, out_channels=128),
    num_keys=6400,
    threshold=0.75,
    tau=0.1,
    contrast_weight=0.1,
)
