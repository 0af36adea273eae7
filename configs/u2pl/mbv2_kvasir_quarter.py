_base_ = [
    '../_base_/models/u2pl_mbv2.py',
    '../_base_/datasets/kvasir_128.py',
    '../_base_/schedules/1200i.py',
    '../_base_/default_runtime.py',
]
model = dict(total_iters=_base_.train_cfg.max_iters)
train_dataloader = dict(dataset=dict(partition='kvasir/quarter'))
