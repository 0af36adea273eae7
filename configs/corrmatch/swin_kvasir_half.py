_base_ = 'swin_kvasir_quarter.py'
train_dataloader = dict(dataset=dict(partition='kvasir/half'))
