_base_ = ['tiny_model.py', 'tiny_run.py']
segmentor = _base_.model
model = dict(_delete_=True, type='SupervisedEMA', segmentor=segmentor, teacher_momentum=0.9)
source = _base_.train_dataloader.dataset.labelled
pipelines = (_base_.sup_pipeline, _base_.strong_sup_pipeline)
train_dataloader = dict(dataset=dict(labelled=[dict(source, pipeline=p) for p in pipelines], unlabelled=None))
