# CVC-ClinicDB at 128 x 128: PraNet's 550 training and 62 test images.
_base_ = 'semi_128.py'

train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='CVCClinicDBDataset'),
        unlabelled=dict(type='CVCClinicDBDataset'),
        partition='clinicdb/quarter',
    )
)
# Training images outside all of the partitions: unlabelled ones, whose masks validate and do nothing else.
val_dataloader = dict(dataset=dict(type='CVCClinicDBDataset', ann_file='clinicdb/dev'))
test_dataloader = dict(dataset=dict(type='CVCClinicDBDataset', ann_file='clinicdb/test'))
