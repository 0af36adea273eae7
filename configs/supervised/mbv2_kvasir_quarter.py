_base_ = [
    '../_base_/models/deeplabv3_mbv2-d8.py',
    '../_base_/datasets/kvasir_128.py',
    '../_base_/schedules/1200i.py',
    '../_base_/default_runtime.py',
]
train_dataloader = _base_.supervised_dataloader
train_dataloader.dataset.partition = 'kvasir/quarter'
