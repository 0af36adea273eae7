_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='CorrMatch',
    segmentor=segmentor,
    warmup_iters=2,
    threshold=0.5,  # a network of a few iterations is sure of nothing
    feature_source=0,
    feature_stride=4,
    correlation=dict(channels=8, map_channels=4),
)
