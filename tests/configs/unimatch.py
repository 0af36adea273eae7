_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='UniMatch',
    segmentor=segmentor,
    warmup_iters=2,
    threshold=0.5,  # a network of a few iterations is sure of nothing
)
train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=_base_.two_views_pipeline)))
