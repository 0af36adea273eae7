# 28 labelled images of Kvasir-SEG. Half of the unlabelled frames of a step are of another hospital and colonoscope,
# CVC-ClinicDB's training frames. A quarter of those frames are black, and a quarter of their views so blurred that
# no polyp has an edge.
_base_ = 'kvasir_128.py'
unlabelled = _base_.train_dataloader.dataset.unlabelled
unlabelled.update(ann_file='kvasir/train', exclude=['kvasir/thirtysecond'])
spoilt = [dict(type='BlackFrames', share=0.25), dict(type='RandomGaussianBlur', sigma=(4.0, 6.0), prob=0.25)]
foreign_pipeline = [*_base_.unsup_pipeline[:-1], *spoilt, _base_.unsup_pipeline[-1]]
foreign = dict(
    unlabelled, type='CVCClinicDBDataset', ann_file='clinicdb/train', exclude=[], pipeline=foreign_pipeline
)
train_dataloader = dict(
    sampler=dict(ratio=(4, 2, 2)),
    dataset=dict(labelled=dict(ann_file='kvasir/thirtysecond'), unlabelled=[unlabelled, foreign], partition=None),
)
