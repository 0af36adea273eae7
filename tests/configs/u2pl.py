_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='U2PL',
    segmentor=segmentor,
    total_iters=_base_.train_cfg.max_iters,
    teacher_momentum=0.9,
    warmup_iters=2,
    channels=16,
    num_anchors=16,
    num_negatives=5,
    bank_size=(64, 32),
)
