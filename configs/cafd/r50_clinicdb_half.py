_base_ = [
    '../_base_/models/cafd_r50.py',
    '../_base_/datasets/clinicdb.py',
    '../_base_/schedules/80e_adversarial.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(partition='clinicdb/half'))
