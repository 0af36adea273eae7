_base_ = [
    '../_base_/models/cac_mbv2.py',
    '../_base_/datasets/polyp_128.py',
    '../_base_/schedules/1200i.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(partition='polyp/quarter', unlabelled=dict(pipeline=_base_.two_crops_pipeline)))
