# DeepLabV3 on Swin-T. At 384 x 384 its last stage is 12 x 12: the usual dilations of 12 and more would all reach
# beyond it and degenerate to 1x1 convolutions, so they are scaled down. ACL-Net resizes its features of stride 32 to
# the affinity's stride of 8.
_base_ = './r50.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        drop_path_rate=0.2,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='mmcls://swin_tiny'),
    ),
    decode_head=dict(in_channels=768, dilations=(1, 3, 6, 9)),
)
