# Any mmseg data set with masks of class numbers as the labelled source, any folder of images as the unlabelled one,
# at 256 x 256. See docs/own_data.md. A config that inherits from this names the two and the classes.
_base_ = 'semi_256.py'
load_classes = dict(type='LoadAnnotations')  # grey values or palette indices; 255 is ignored
sup_pipeline = [load_classes if step['type'] == 'LoadPolypMask' else step for step in _base_.sup_pipeline]
strong_sup_pipeline = [
    load_classes if step['type'] == 'LoadPolypMask' else step for step in _base_.strong_sup_pipeline
]
test_pipeline = [load_classes if step['type'] == 'LoadPolypMask' else step for step in _base_.test_pipeline]

train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='BaseSegDataset', pipeline=sup_pipeline),
        unlabelled=dict(_delete_=True, type='UnlabelledFolder', pipeline=_base_.unsup_pipeline),
    )
)
val_dataloader = dict(dataset=dict(type='BaseSegDataset', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='IoUMetric', iou_metrics=['mIoU', 'mDice'])
test_evaluator = val_evaluator

# A plain mmseg segmentor on the labelled half of these very batches:
# train_dataloader = _base_.supervised_dataloader
supervised_dataloader = dict(
    dataset=dict(
        labelled=dict(
            pipeline=[
                *[step for step in sup_pipeline[:-1] if step['type'] != 'MarkValid'],
                dict(type='PackSegInputs'),
            ]
        )
    )
)
