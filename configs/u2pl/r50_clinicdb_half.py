_base_ = [
    '../_base_/models/u2pl_r50.py',
    '../_base_/datasets/clinicdb.py',
    '../_base_/schedules/80e.py',
    '../_base_/default_runtime.py',
]
model = dict(total_iters=_base_.train_cfg.max_iters)
train_dataloader = dict(dataset=dict(partition='clinicdb/half'))
