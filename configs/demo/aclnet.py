# ACL-Net of `make demo`: the same labelled frames, and others without labels.
_base_ = [
    '../_base_/models/aclnet_mbv2.py',
    '../_base_/datasets/synthetic.py',
    './schedule.py',
    '../_base_/default_runtime.py',
]
model = dict(
    segmentor=dict(backbone=dict(init_cfg=None)),  # random weights: nothing is downloaded
    warmup_iters=80,
    bank_min_keys=64,
)
train_dataloader = dict(batch_size=4, sampler=dict(ratio=(2, 2)))
