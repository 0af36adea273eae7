_base_ = [
    '../_base_/networks/dinov2_s.py',
    '../_base_/methods/fixmatch_384.py',
    '../_base_/datasets/kvasir_378.py',
    '../_base_/schedules/80e_dino.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
