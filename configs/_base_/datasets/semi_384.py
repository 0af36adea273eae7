# The paper's track: 384 x 384, scales 0.5 to 2.
# A data set file (kvasir.py, clinicdb.py, polyp.py) names the images. Geometry is drawn once for
# all views of an image, so they are aligned pixel by pixel; they differ in colours.
crop_size = (384, 384)
geometry = [
    dict(type='RandomResizeAndCrop', scale=crop_size, ratio_range=(0.5, 2.0), crop_size=crop_size),
    dict(type='MarkValid'),
    dict(type='PadFields', size=crop_size),
    dict(
        type='RandomFlipFields',  # two independent flips, as one draw
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
]
strong_colors = [
    dict(type='ColorJitter', brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, prob=0.8),
    dict(type='RandomGrey', prob=0.2),
    dict(type='RandomGaussianBlur', sigma=(0.1, 2.0), prob=0.5),
]
sup_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPolypMask'),
    *geometry,
    dict(type='Views', sup=[]),
]
# For labelled images with strong colours, see configs/supervised_strong.
strong_sup_pipeline = [*sup_pipeline[:-1], dict(type='Views', sup=strong_colors)]
unsup_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPolypMask', hidden=True),
    *geometry,
    dict(type='Views', unsup_weak=[], unsup_strong=strong_colors),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=crop_size, keep_ratio=False),
    dict(type='LoadPolypMask'),  # after Resize: scored at the mask's original size
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='SourceRatioSampler', ratio=(4, 4)),
    collate_fn=dict(type='view_collate'),
    dataset=dict(
        type='SemiSupervisedDataset',
        labelled=dict(type='PolypDataset', pipeline=sup_pipeline),
        unlabelled=dict(type='PolypDataset', labelled=False, pipeline=unsup_pipeline),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='PolypDataset', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='PolypMetric')
test_evaluator = val_evaluator

# A plain mmseg segmentor on the labelled half of these very batches, image for image and view for view:
# train_dataloader = _base_.supervised_dataloader
supervised_dataloader = dict(
    batch_size=4,
    sampler=dict(ratio=(4,)),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        labelled=dict(
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadPolypMask'),
                *[step for step in geometry if step['type'] != 'MarkValid'],
                dict(type='PackSegInputs'),
            ]
        ),
        unlabelled=None,
    ),
)

# For UniMatch: two strong views of an unlabelled image, each with colours of its own:
# train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=_base_.two_views_pipeline)))
two_views_pipeline = [
    *unsup_pipeline[:-1],
    dict(type='Views', unsup_weak=[], unsup_strong=strong_colors, unsup_strong2=strong_colors),
]

# For CAC: two crops of an unlabelled image that overlap, each with flips and colours of its own. The image is never
# smaller than a crop, so that there is room for two:
# train_dataloader = dict(dataset=dict(unlabelled=dict(pipeline=_base_.two_crops_pipeline)))
two_crops_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResize', scale=crop_size, ratio_range=(1.0, 2.0), resize_type='mmseg.Resize'),
    dict(type='MarkValid'),
    dict(type='TwoCrops', crop_size=crop_size, min_iou=0.1, transforms=[geometry[-1], *strong_colors]),
]
