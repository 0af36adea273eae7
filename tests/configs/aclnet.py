_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
model = dict(
    _delete_=True,
    type='ACLNet',
    segmentor=segmentor,
    teacher_momentum=0.9,
    warmup_iters=2,
    bank_min_keys=1,
    contrast=dict(bank_size=128, num_anchors=16),
    aggregation=dict(interval=1, num_clusters=3, max_keys=64),
    refinement=dict(num_iters=2, gated=True),
)
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(type='PseudoLabelRefinementHook', interval=2, picture_interval=4),
]
