_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='BCP',
    segmentor=segmentor,
    teacher_momentum=0.9,
    warmup_iters=2,
    largest_component=True,
)
