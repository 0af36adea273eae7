_base_ = [
    '../_base_/models/deeplabv3_r50-d8.py',
    '../_base_/datasets/kvasir.py',
    '../_base_/schedules/80e.py',
    '../_base_/default_runtime.py',
]
train_dataloader = _base_.supervised_dataloader
train_dataloader.dataset.partition = 'kvasir/quarter'
