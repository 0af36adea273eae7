# A segmentor small enough to train in a test: a U-Net with two classes, its logits at full size.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[127.5] * 3, std=[64.0] * 3, bgr_to_rgb=True, size_divisor=1
    ),
    backbone=dict(
        type='UNet',
        base_channels=4,
        num_stages=3,
        strides=(1, 1, 1),
        enc_num_convs=(1, 1, 1),
        dec_num_convs=(1, 1),
        downsamples=(True, True),
        enc_dilations=(1, 1, 1),
        dec_dilations=(1, 1),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=4,
        in_index=2,
        channels=8,
        num_convs=1,
        num_classes=2,
        align_corners=False,
        loss_decode=[dict(type='CrossEntropyLoss'), dict(type='PolypDiceLoss')],
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
