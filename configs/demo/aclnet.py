# ACL-Net of `make demo`: the same labelled frames, and others without labels.
_base_ = [
    './segmentor.py',
    '../_base_/datasets/synthetic.py',
    './schedule.py',
    '../_base_/default_runtime.py',
]
model = dict(
    _delete_=True,
    type='ACLNet',
    segmentor=_base_.model,
    teacher_momentum=0.97,
    warmup_iters=1 / 3,
    bank_min_keys=64,
    refinement=dict(num_iters=3, gated=True),  # a teacher of a few hundred steps is not to be overruled
    refine_after=1 / 3,
    contrast_weight=0.05,
)
