# CAC on the laptop track: 128 x 128, 1200 iterations. All 1024 cells of a view become keys. Not searched.
_base_ = './deeplabv3_mbv2-d8.py'
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='CAC',
    segmentor=segmentor,
    warmup_iters=150,
    projector=dict(hidden_channels=128, out_channels=128),
    num_keys=1024,
    threshold=0.75,
    tau=0.1,
    contrast_weight=0.1,
)
