# Kvasir-SEG at 126 x 126: PraNet's 900 training and 100 test images.
_base_ = 'semi_126.py'

train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='KvasirSEGDataset'),
        unlabelled=dict(type='KvasirSEGDataset'),
        partition='kvasir/quarter',
    )
)
# Training images outside all of the partitions: unlabelled ones, whose masks validate and do nothing else.
val_dataloader = dict(dataset=dict(type='KvasirSEGDataset', ann_file='kvasir/dev'))
test_dataloader = dict(dataset=dict(type='KvasirSEGDataset', ann_file='kvasir/test'))
