# Mean Teacher on the laptop track.
_base_ = './deeplabv3_mbv2-d8.py'
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='MeanTeacher',
    segmentor=segmentor,
    teacher_momentum=0.99,
    warmup_iters=150,
    consistency_weight=1.0,
    rampup_iters=400,
)
