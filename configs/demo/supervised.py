# SupOnly of `make demo`: the labelled synthetic frames alone.
_base_ = [
    './segmentor.py',
    '../_base_/datasets/synthetic.py',
    './schedule.py',
    '../_base_/default_runtime.py',
]
train_dataloader = _base_.supervised_dataloader
