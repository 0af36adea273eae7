"""Small variants of mmseg's families of segmentors, with two classes, as a user's configs have them.

Each keeps what makes its family different: the backbone's kind of output, necks, cascades, auxiliary heads, what
the head returns and which losses it has. Widths and depths are cut so that two steps take about a second.
"""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from stand_ins import module_or_skip

NORM = dict(type='BN')
CE = dict(type='CrossEntropyLoss')
HEAD = dict(num_classes=2, norm_cfg=NORM, align_corners=False, loss_decode=CE)
ResNet = dict(
    type='ResNetV1c',
    depth=18,
    stem_channels=8,
    base_channels=8,
    out_indices=(0, 1, 2, 3),
    dilations=(1, 1, 2, 4),
    strides=(1, 2, 1, 1),
    norm_cfg=NORM,
    contract_dilation=True,
)
ResNetD32 = dict(ResNet, dilations=(1, 1, 1, 1), strides=(1, 2, 2, 2))
ViT = dict(
    type='VisionTransformer', img_size=(64, 64), patch_size=16, embed_dims=16, num_layers=4, num_heads=2, mlp_ratio=2
)
DINO = dict(arch=dict(embed_dims=16, num_layers=4, num_heads=2), out_indices=(0, 1, 2, 3))
HRNet = dict(
    type='HRNet',
    norm_cfg=NORM,
    extra=dict(
        stage1=dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(1,), num_channels=(4,)),
        stage2=dict(num_modules=1, num_branches=2, block='BASIC', num_blocks=(1, 1), num_channels=(4, 8)),
        stage3=dict(num_modules=1, num_branches=3, block='BASIC', num_blocks=(1,) * 3, num_channels=(4, 8, 16)),
        stage4=dict(num_modules=1, num_branches=4, block='BASIC', num_blocks=(1,) * 4, num_channels=(4, 8, 16, 32)),
    ),
)
FPN = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4)
FPN_HEAD = dict(
    HEAD, type='FPNHead', in_channels=[8] * 4, in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32], channels=8
)


def fcn(in_channels: int = 32, in_index: int = 2, channels: int = 8, **changes) -> dict:
    """An FCN head, which most families use for their auxiliary losses."""
    head = dict(HEAD, type='FCNHead', in_channels=in_channels, in_index=in_index, channels=channels)
    return dict(head, num_convs=1, concat_input=False, **changes)


def segmentor(decode_head: dict | list[dict], backbone: dict = ResNet, **parts) -> dict:
    """An encoder-decoder, or a cascade where there are several decode heads."""
    config = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[127.5] * 3, std=[64.0] * 3, bgr_to_rgb=True, pad_val=0, seg_pad_val=255
        ),
        backbone=backbone,
        decode_head=decode_head,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    if isinstance(decode_head, list):
        config.update(type='CascadeEncoderDecoder', num_stages=len(decode_head))
    return deepcopy(dict(config, **parts))


def on_resnet(kind: str, aux: bool = True, **head) -> dict:
    """A head on the last stage of ResNet, with the auxiliary FCN of mmseg's configs."""
    decode_head = dict(dict(HEAD, type=kind, in_channels=64, in_index=3, channels=8), **head)
    return segmentor(decode_head, auxiliary_head=fcn() if aux else None)


def kernel_update_head() -> dict:
    return dict(
        type='KernelUpdateHead',
        num_classes=2,
        num_ffn_fcs=2,
        num_heads=2,
        num_mask_fcs=1,
        feedforward_channels=16,
        in_channels=8,
        out_channels=8,
        ffn_act_cfg=dict(type='ReLU', inplace=True),
        with_ffn=True,
        feat_transform_cfg=dict(conv_cfg=dict(type='Conv2d'), act_cfg=None),
        kernel_updator_cfg=dict(
            type='KernelUpdator',
            in_channels=8,
            feat_channels=8,
            out_channels=8,
            act_cfg=dict(type='ReLU', inplace=True),
            norm_cfg=dict(type='LN'),
        ),
    )


def upernet(backbone: dict, channels: tuple[int, ...], **parts) -> dict:
    head = dict(HEAD, type='UPerHead', in_channels=list(channels), in_index=[0, 1, 2, 3], channels=8)
    return segmentor(head, backbone, auxiliary_head=fcn(channels[2], 2), **parts)


def mscan() -> dict:
    return dict(
        type='MSCAN',
        embed_dims=[8, 8, 16, 16],
        mlp_ratios=[2, 2, 2, 2],
        drop_path_rate=0.1,
        depths=[1, 1, 1, 1],
        norm_cfg=NORM,
    )


def dpt_on_dino(kind: str, **backbone) -> dict:
    """DPT on a ViT of four blocks, as UniMatch V2 has it: without normalisation, and without the class tokens."""
    head = dict(
        HEAD,
        type='DPTHead',
        in_channels=(16,) * 4,
        in_index=(0, 1, 2, 3),
        input_transform='multiple_select',
        embed_dims=16,
        post_process_channels=[8, 8, 16, 16],
        channels=8,
        dropout_ratio=0,
        norm_cfg=None,
    )
    return segmentor(head, dict(DINO, type=kind, output_cls_token=True, **backbone))


class Family(NamedTuple):
    """A segmentor, and what of it differs from the others.

    Attributes:
        config: Config of the segmentor, with two classes.
        side: Side of its images: 64, or the least that the head takes.
        sigmoid: Whether its head can have one channel.
        module: A package that the backbone comes from.
        random: Whether a forward pass in eval mode draws random numbers.
        images: Labelled images a step, and unlabelled ones.
    """

    config: dict
    side: int = 64
    sigmoid: bool = True
    module: str | None = None
    random: bool = False
    images: int = 2


OHEM = dict(type='OhemCrossEntropy', thres=0.9, min_kept=100)
UNET = dict(
    type='UNet',
    base_channels=4,
    num_stages=3,
    strides=(1, 1, 1),
    enc_num_convs=(1, 1, 1),
    dec_num_convs=(1, 1),
    downsamples=(True, True),
    enc_dilations=(1, 1, 1),
    dec_dilations=(1, 1),
    norm_cfg=NORM,
)
SWIN = dict(
    type='SwinTransformer', embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4, mlp_ratio=2
)
MIT = dict(
    type='MixVisionTransformer',
    embed_dims=8,
    num_layers=[1, 1, 1, 1],
    num_heads=[1, 1, 2, 4],
    mlp_ratio=2,
    drop_path_rate=0.1,
)
STDC = dict(
    type='STDCContextPathNet',
    backbone_cfg=dict(
        type='STDCNet',
        stdc_type='STDCNet1',
        in_channels=3,
        channels=(8, 8, 16, 32, 64),
        bottleneck_type='cat',
        num_convs=4,
        norm_cfg=NORM,
        act_cfg=dict(type='ReLU'),
    ),
    last_in_channels=(64, 32),
    out_channels=8,
    ffm_cfg=dict(in_channels=24, out_channels=16, scale_factor=4),
)
ICNET = dict(
    type='ICNet',
    backbone_cfg=dict(ResNet, in_channels=3),
    in_channels=3,
    layer_channels=(16, 64),
    light_branch_middle_channels=8,
    psp_out_channels=16,
    out_channels=(8, 16, 16),
    norm_cfg=NORM,
)

FAMILIES: dict[str, Family] = {
    'FCN': Family(on_resnet('FCNHead')),
    'UNet': Family(segmentor(fcn(4, 2), UNET, auxiliary_head=fcn(8, 1))),
    'PSPNet': Family(on_resnet('PSPHead')),
    'DeepLabV3': Family(on_resnet('ASPPHead', dilations=(1, 2, 4))),
    'DeepLabV3+': Family(
        on_resnet('DepthwiseSeparableASPPHead', dilations=(1, 2, 4), c1_in_channels=8, c1_channels=4)
    ),
    'DANet': Family(on_resnet('DAHead', pam_channels=4)),
    'EncNet': Family(
        on_resnet(
            'EncHead',
            in_channels=[16, 32, 64],
            in_index=(1, 2, 3),
            num_codes=4,
            use_se_loss=True,
            loss_se_decode=dict(CE, use_sigmoid=True, loss_weight=0.2),
        )
    ),
    'ANN': Family(on_resnet('ANNHead', in_channels=[32, 64], in_index=[2, 3], project_channels=4)),
    'APCNet': Family(on_resnet('APCHead', pool_scales=(1, 2))),
    'DMNet': Family(on_resnet('DMHead', filter_sizes=(1, 3))),
    'DNLNet': Family(on_resnet('DNLHead', dropout_ratio=0.1, reduction=2)),
    'EMANet': Family(on_resnet('EMAHead', ema_channels=8, num_bases=4, num_stages=2)),
    'GCNet': Family(on_resnet('GCHead')),
    'NonLocalNet': Family(on_resnet('NLHead')),
    'ISANet': Family(on_resnet('ISAHead', isa_channels=4, down_factor=(2, 2))),
    'Semantic FPN': Family(segmentor(FPN_HEAD, ResNetD32, neck=FPN)),
    'UPerNet + Swin': Family(upernet(SWIN, (8, 16, 32, 64))),
    'UPerNet + ConvNeXt': Family(
        upernet(
            dict(
                type='mmpretrain.ConvNeXt',
                arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 32, 64]),
                out_indices=[0, 1, 2, 3],
                drop_path_rate=0.1,
                layer_scale_init_value=1.0,
                gap_before_final_norm=False,
            ),
            (8, 16, 32, 64),
        ),
        module='mmpretrain.models',
    ),
    'SegFormer': Family(
        segmentor(
            dict(HEAD, type='SegformerHead', in_channels=[8, 8, 16, 32], in_index=[0, 1, 2, 3], channels=8), MIT
        )
    ),
    'Segmenter': Family(
        segmentor(
            dict(
                type='SegmenterMaskTransformerHead',
                in_channels=16,
                channels=16,
                num_classes=2,
                num_layers=2,
                num_heads=2,
                embed_dims=16,
                dropout_ratio=0.0,
                loss_decode=CE,
            ),
            dict(ViT, final_norm=True),
        ),
        sigmoid=False,
    ),
    'SETR-PUP': Family(
        segmentor(
            dict(HEAD, type='SETRUPHead', in_channels=16, in_index=3, channels=8, num_convs=2, dropout_ratio=0),
            dict(ViT, out_indices=(0, 1, 2, 3)),
            auxiliary_head=[
                dict(HEAD, type='SETRUPHead', in_channels=16, in_index=i, channels=8, up_scale=4) for i in range(2)
            ],
        )
    ),
    'SETR-MLA': Family(
        segmentor(
            dict(
                HEAD,
                type='SETRMLAHead',
                in_channels=(8,) * 4,
                in_index=(0, 1, 2, 3),
                channels=16,
                mla_channels=4,
                dropout_ratio=0,
            ),
            dict(ViT, out_indices=(0, 1, 2, 3), with_cls_token=False),
            neck=dict(type='MLANeck', in_channels=[16] * 4, out_channels=8, norm_cfg=NORM, act_cfg=dict(type='ReLU')),
            auxiliary_head=[fcn(8, 0, dropout_ratio=0)],
        )
    ),
    'DPT': Family(
        segmentor(
            dict(
                HEAD,
                type='DPTHead',
                in_channels=(16,) * 4,
                channels=8,
                embed_dims=16,
                post_process_channels=[8, 8, 16, 16],
                readout_type='project',
                input_transform='multiple_select',
                in_index=(0, 1, 2, 3),
            ),
            dict(ViT, out_indices=(0, 1, 2, 3), final_norm=False, output_cls_token=True),
        )
    ),
    'DPT + DINOv2': Family(dpt_on_dino('DINOv2'), side=56, module='transformers'),
    'DPT + DINOv3': Family(dpt_on_dino('DINOv3'), module='transformers'),
    'UPerNet + DINOv2': Family(
        dict(
            upernet(dict(DINO, type='DINOv2'), (16, 16, 16, 16)),
            neck=dict(type='Feature2Pyramid', embed_dim=16, norm_cfg=NORM),
        ),
        side=56,
        module='transformers',
    ),
    'OCRNet': Family(
        segmentor([fcn(), dict(HEAD, type='OCRHead', in_channels=64, in_index=3, channels=8, ocr_channels=4)]),
        sigmoid=False,
    ),
    'HRNet': Family(
        segmentor(
            dict(
                fcn(),
                in_channels=[4, 8, 16, 32],
                in_index=(0, 1, 2, 3),
                input_transform='resize_concat',
                kernel_size=1,
                dropout_ratio=-1,
            ),
            HRNet,
        )
    ),
    'Fast-SCNN': Family(
        segmentor(
            dict(
                fcn(16, -1, 16, dropout_ratio=0.1),
                type='DepthwiseSeparableFCNHead',
                loss_decode=dict(CE, use_sigmoid=True),
            ),
            dict(
                type='FastSCNN',
                downsample_dw_channels=(8, 8),
                global_in_channels=8,
                global_block_channels=(8, 8, 16),
                global_out_channels=16,
                higher_in_channels=8,
                lower_in_channels=16,
                fusion_out_channels=16,
                norm_cfg=NORM,
            ),
            auxiliary_head=[fcn(16, -2), fcn(8, -3)],
        )
    ),
    'BiSeNetV1': Family(
        segmentor(
            fcn(32, 0),
            dict(
                type='BiSeNetV1',
                backbone_cfg=dict(ResNetD32, in_channels=3),
                in_channels=3,
                spatial_channels=(8, 8, 8, 16),
                context_channels=(16, 32, 64),
                out_channels=32,
                norm_cfg=NORM,
            ),
            auxiliary_head=[fcn(16, 1), fcn(16, 2)],
        )
    ),
    'BiSeNetV2': Family(
        segmentor(
            fcn(16, 0),
            dict(
                type='BiSeNetV2',
                detail_channels=(8, 8, 16),
                semantic_channels=(4, 8, 8, 16),
                semantic_expansion_ratio=2,
                bga_channels=16,
                norm_cfg=NORM,
            ),
            auxiliary_head=[fcn(4, 1), fcn(8, 2), fcn(8, 3), fcn(16, 4)],
        )
    ),
    'ICNet': Family(
        segmentor(
            fcn(8, 2),
            ICNET,
            neck=dict(type='ICNeck', in_channels=(8, 16, 16), out_channels=8, norm_cfg=NORM),
            auxiliary_head=[fcn(8, 0), fcn(8, 1)],
        )
    ),
    'STDC': Family(
        segmentor(
            fcn(16, 3, sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)),
            STDC,
            auxiliary_head=[
                fcn(8, 2),
                fcn(8, 1),
                dict(
                    fcn(16, 0),
                    type='STDCHead',
                    boundary_threshold=0.1,
                    loss_decode=[dict(CE, loss_name='loss_ce', use_sigmoid=True), dict(type='DiceLoss')],
                ),
            ],
        )
    ),
    'PIDNet': Family(
        segmentor(
            dict(
                HEAD,
                type='PIDHead',
                in_channels=32,
                channels=8,
                loss_decode=[dict(CE, loss_weight=0.4), OHEM, dict(type='BoundaryLoss', loss_weight=20.0), OHEM],
            ),
            dict(
                type='PIDNet',
                in_channels=3,
                channels=8,
                ppm_channels=8,
                num_stem_blocks=1,
                num_branch_blocks=1,
                norm_cfg=NORM,
            ),
        ),
        sigmoid=False,
    ),
    'DDRNet': Family(
        segmentor(
            dict(
                HEAD,
                type='DDRHead',
                in_channels=32,
                channels=8,
                dropout_ratio=0.0,
                loss_decode=[OHEM, dict(OHEM, loss_weight=0.4)],
            ),
            dict(type='DDRNet', in_channels=3, channels=8, ppm_channels=8, norm_cfg=NORM),
        ),
        sigmoid=False,
    ),
    'SegNeXt': Family(
        segmentor(
            dict(
                HEAD,
                type='LightHamHead',
                in_channels=[8, 16, 16],
                in_index=[1, 2, 3],
                channels=8,
                ham_channels=8,
                norm_cfg=dict(type='GN', num_groups=2),
                ham_kwargs=dict(MD_S=1, MD_R=4, train_steps=2, eval_steps=2, inv_t=100, rand_init=True),
            ),
            mscan(),
        ),
        random=True,
    ),
    'LR-ASPP + MobileNetV3': Family(
        segmentor(
            dict(
                HEAD,
                type='LRASPPHead',
                in_channels=(16, 16, 576),
                in_index=(0, 1, 2),
                channels=8,
                branch_channels=(8, 8),
                input_transform='multiple_select',
            ),
            dict(type='MobileNetV3', arch='small', out_indices=(0, 1, 12), norm_cfg=NORM),
        ),
        side=392,  # its pooling window is 49 pixels wide at stride 8
        images=1,
    ),
    'K-Net': Family(
        segmentor(
            dict(
                type='IterativeDecodeHead',
                num_stages=2,
                kernel_update_head=[kernel_update_head(), kernel_update_head()],
                kernel_generate_head=dict(
                    HEAD, type='FCNHead', in_channels=64, in_index=3, channels=8, num_convs=2, concat_input=True
                ),
            ),
            auxiliary_head=fcn(),
        ),
        sigmoid=False,
    ),
    'PointRend': Family(
        segmentor(
            [
                dict(FPN_HEAD, dropout_ratio=-1),
                dict(
                    type='PointHead',
                    in_channels=[8],
                    in_index=[0],
                    channels=8,
                    num_fcs=2,
                    dropout_ratio=-1,
                    num_classes=2,
                    loss_decode=CE,
                ),
            ],
            ResNetD32,
            neck=FPN,
            train_cfg=dict(num_points=32, oversample_ratio=3, importance_sample_ratio=0.75),
            test_cfg=dict(mode='whole', subdivision_steps=2, subdivision_num_points=64, scale_factor=2),
        ),
        module='mmcv.ops',
        sigmoid=False,
    ),
}


# Every kind of head output, tap and backbone.
QUICK = ('FCN', 'DANet', 'OCRNet', 'K-Net', 'Segmenter', 'PIDNet', 'UPerNet + Swin', 'PointRend')


def config_of(name: str) -> dict:
    """A family's segmentor; the test is skipped where the package of its backbone is missing."""
    family = FAMILIES[name]
    if family.module:
        module_or_skip(family.module)
    return deepcopy(family.config)


def fitted(data: dict, name: str) -> dict:
    """A batch at the family's size, with the edges that PIDNet learns."""
    side = FAMILIES[name].side
    data['inputs'] = {view: [_resized(x, side) for x in images] for view, images in data['inputs'].items()}
    for samples in data['data_samples'].values():
        for sample in samples:
            sample.set_metainfo(dict(img_shape=(side, side), ori_shape=(side, side), pad_shape=(side, side)))
            for key in sample.keys():
                sample.set_data({key: PixelData(data=_resized(sample.get(key).data, side))})
    for sample in data['data_samples']['sup']:
        mask = sample.gt_sem_seg.data
        sample.gt_edge_map = PixelData(data=(mask != mask.roll(1, dims=2)).long())
    return data


def _resized(array: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(array[None].float(), size=(side, side))[0].to(array)


def with_sigmoid(config: dict) -> dict:
    """The same segmentor with one channel and a sigmoid in every head that labels two classes."""
    config = deepcopy(config)
    for part in (config['decode_head'], config.get('auxiliary_head') or []):
        for head in part if isinstance(part, list) else [part]:
            head = head.get('kernel_generate_head', head)
            head.pop('sampler', None)
            if head['type'] != 'STDCHead':
                head.update(out_channels=1, threshold=0.5, loss_decode=dict(CE, use_sigmoid=True))
    return config
