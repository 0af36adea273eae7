_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='FixMatch',
    segmentor=segmentor,
    teacher_momentum=0.9,
    warmup_iters=2,
    threshold=0.5,  # a network of a few iterations is sure of nothing
)
