_base_ = [
    '../_base_/networks/mbv2.py',
    '../_base_/datasets/polyp_128.py',
    '../_base_/schedules/1200i.py',
    '../_base_/default_runtime.py',
]
train_dataloader = _base_.supervised_dataloader
