_base_ = [
    '../_base_/networks/mbv2.py',
    '../_base_/methods/corrmatch_128.py',
    '../_base_/datasets/clinicdb_128.py',
    '../_base_/schedules/1200i.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
