_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='ELN',
    segmentor=segmentor,
    teacher_momentum=0.9,
    warmup_iters=2,
    eln_iters=2,
    decoder_ratios=(1.0, 1.1),
    localization=dict(channels=8),
    num_crops=2,
    crop_size=16,
)
