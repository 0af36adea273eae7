# Half of the four labelled images of a step have strong colours, as the unlabelled ones do.
_base_ = '../mbv2_kvasir_eighth.py'
source = _base_.train_dataloader.dataset.labelled
pipelines = (_base_.sup_pipeline, _base_.strong_sup_pipeline)
train_dataloader = dict(
    sampler=dict(ratio=(2, 2, 4)),
    dataset=dict(labelled=[dict(source, pipeline=pipeline) for pipeline in pipelines]),
)
