# Synthetic frames at 128 x 128, written by mmseg_acl.datasets.write_synthetic into the data root.
_base_ = 'semi_128.py'

train_dataloader = dict(
    dataset=dict(
        labelled=dict(folder='Synthetic/labelled'),
        unlabelled=dict(folder='Synthetic/unlabelled'),
    )
)
val_dataloader = dict(dataset=dict(folder='Synthetic/test'))
test_dataloader = val_dataloader
