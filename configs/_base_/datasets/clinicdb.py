# CVC-ClinicDB at 384 x 384: PraNet's 550 training and 62 test images.
_base_ = 'semi_384.py'

train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='CVCClinicDBDataset'),
        unlabelled=dict(type='CVCClinicDBDataset'),
        partition='clinicdb/quarter',
    )
)
val_dataloader = dict(dataset=dict(type='CVCClinicDBDataset', ann_file='clinicdb/test'))
test_dataloader = val_dataloader
