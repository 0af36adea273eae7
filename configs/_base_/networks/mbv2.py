# The laptop track's network: DeepLabV3 with 128 channels on MobileNetV2 at stride 8.
_base_ = './r50.py'
model = dict(
    # Several indices, of which the head takes the last: with a single one mmseg's MobileNetV2 returns a bare
    # tensor, and the head would index its batch.
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        widen_factor=1.0,
        strides=(1, 2, 2, 1, 1, 1, 1),
        dilations=(1, 1, 1, 2, 2, 4, 4),
        out_indices=(1, 2, 4, 6),
        norm_cfg=_base_.norm_cfg,
        init_cfg=dict(type='Pretrained', checkpoint='mmcls://mobilenet_v2'),
    ),
    decode_head=dict(in_channels=320, channels=128),
)
