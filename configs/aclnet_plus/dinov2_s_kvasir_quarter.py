_base_ = [
    '../_base_/networks/dinov2_s.py',
    '../_base_/methods/aclnet_plus_384.py',
    '../_base_/datasets/kvasir_378.py',
    '../_base_/schedules/80e_dino_clipped.py',
    '../_base_/default_runtime.py',
]
# Affinities of the patches behind block 9 of 12 (feature_source=2), 27 x 27 of an image of 378 x 378.
model = dict(_delete_=True, segmentor=_base_.model, feature_stride=14, **_base_.method)
