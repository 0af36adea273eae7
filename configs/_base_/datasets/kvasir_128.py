# Kvasir-SEG at 128 x 128: PraNet's 900 training and 100 test images.
_base_ = 'semi_128.py'

train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='KvasirSEGDataset'),
        unlabelled=dict(type='KvasirSEGDataset'),
        partition='kvasir/quarter',
    )
)
val_dataloader = dict(dataset=dict(type='KvasirSEGDataset', ann_file='kvasir/test'))
test_dataloader = val_dataloader
