# DPT on DINOv2-S, as UniMatch V2 has it: a head without normalisation, whose maps are those of every third block. It
# does not read the class tokens. Sides of images are multiples of 14.
_base_ = './r50.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='DINOv2',
        arch='small',
        out_indices=(2, 5, 8, 11),
        output_cls_token=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth',
        ),
    ),
    decode_head=dict(
        _delete_=True,
        type='DPTHead',
        in_channels=(384, 384, 384, 384),
        in_index=(0, 1, 2, 3),
        input_transform='multiple_select',
        embed_dims=384,
        post_process_channels=[48, 96, 192, 384],
        channels=64,
        readout_type='ignore',
        dropout_ratio=0,
        num_classes=2,
        norm_cfg=None,
        align_corners=False,
        loss_decode=_base_.loss_decode,
    ),
)
