_base_ = [
    '../_base_/models/eln_r50.py',
    '../_base_/datasets/polyp.py',
    '../_base_/schedules/80e.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(partition='polyp/eighth'))
