_base_ = [
    '../_base_/networks/r50.py',
    '../_base_/datasets/polyp.py',
    '../_base_/schedules/80e.py',
    '../_base_/default_runtime.py',
]
train_dataloader = _base_.supervised_dataloader
