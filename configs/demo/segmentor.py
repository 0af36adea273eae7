# A small DeepLabV3 at stride 8: half the channels of ResNet-18 and three of its stages. It learns
# from random weights in some hundred steps, which MobileNetV2 (the laptop track) does not.
_base_ = '../_base_/networks/r50.py'
model = dict(
    backbone=dict(
        depth=18,
        stem_channels=32,
        base_channels=32,
        num_stages=3,
        out_indices=(0, 1, 2),
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
        init_cfg=None,
    ),
    decode_head=dict(in_channels=128, in_index=2, channels=64, dilations=(1, 3, 6, 9)),
)
