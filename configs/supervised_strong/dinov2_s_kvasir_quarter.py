_base_ = [
    '../_base_/networks/dinov2_s.py',
    '../_base_/methods/supervised_strong_384.py',
    '../_base_/datasets/kvasir_378.py',
    '../_base_/schedules/80e_dino.py',
    '../_base_/default_runtime.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
# Eight labelled images a step, the last four of them with strong colours. Each half runs through all of them.
source = _base_.train_dataloader.dataset.labelled
pipelines = (_base_.sup_pipeline, _base_.strong_sup_pipeline)
train_dataloader = dict(dataset=dict(labelled=[dict(source, pipeline=p) for p in pipelines], unlabelled=None))
