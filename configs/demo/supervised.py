# SupOnly of `make demo`: the laptop track's network on the labelled synthetic frames.
_base_ = [
    '../_base_/models/deeplabv3_mbv2-d8.py',
    '../_base_/datasets/synthetic.py',
    './schedule.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(init_cfg=None))  # random weights: nothing is downloaded
train_dataloader = _base_.supervised_dataloader
train_dataloader.batch_size = 4
train_dataloader.sampler.ratio = (4,)
