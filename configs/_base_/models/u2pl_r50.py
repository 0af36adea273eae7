# U2PL at 384 x 384, with the settings of the public code on Pascal VOC; total_iters is the schedule's.
_base_ = './deeplabv3_r50-d8.py'
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='U2PL',
    segmentor=segmentor,
    teacher_momentum=0.99,
    warmup_iters=169,  # 1 of 80 epochs
    consistency_weight=1.0,
    contrast_weight=1.0,
    drop=0.2,
    bank_size=(50000, 30000),
    cutmix=dict(prob=0.5),
)
