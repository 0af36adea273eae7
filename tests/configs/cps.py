_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='CPS',
    segmentor=segmentor,
    warmup_iters=2,
    dice=True,
)
