# Mean Teacher at 384 x 384.
_base_ = './deeplabv3_r50-d8.py'
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='MeanTeacher',
    segmentor=segmentor,
    teacher_momentum=0.999,
    warmup_iters=1690,  # 10 of 80 epochs
    consistency_weight=10.0,
    rampup_iters=4000,
)
