# The paper's track for DINOv2, whose patches are 14 pixels wide: semi_384.py with crops of 378 x 378.
_base_ = 'semi_384.py'
crop_size = (378, 378)
side = dict(scale=crop_size, crop_size=crop_size, size=crop_size)  # as steps call it
pipelines = [
    [dict(step, **{key: side[key] for key in side if key in step}) for step in pipeline]
    for pipeline in (
        _base_.sup_pipeline,
        _base_.strong_sup_pipeline,
        _base_.unsup_pipeline,
        _base_.test_pipeline,
        _base_.two_views_pipeline,
        _base_.two_crops_pipeline,
        _base_.supervised_dataloader.dataset.labelled.pipeline,
        _base_.geometry,
    )
]
sup_pipeline, strong_sup_pipeline, unsup_pipeline, test_pipeline = pipelines[:4]
two_views_pipeline, two_crops_pipeline, supervised_pipeline, geometry = pipelines[4:]
del side, pipelines
train_dataloader = dict(
    dataset=dict(labelled=dict(pipeline=sup_pipeline), unlabelled=dict(pipeline=unsup_pipeline)),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
supervised_dataloader = dict(dataset=dict(labelled=dict(pipeline=supervised_pipeline)))
