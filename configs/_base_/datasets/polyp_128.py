# Kvasir-SEG and CVC-ClinicDB together at 128 x 128: PraNet's 1450 training and 162 test images.
_base_ = 'semi_128.py'

train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='PolypDataset'),
        unlabelled=dict(type='PolypDataset'),
        partition='polyp/quarter',
    )
)
# Training images outside all of the partitions: unlabelled ones, whose masks validate and do nothing else.
val_dataloader = dict(dataset=dict(type='PolypDataset', ann_file='polyp/dev'))
test_dataloader = dict(dataset=dict(type='PolypDataset', ann_file='polyp/test'))
