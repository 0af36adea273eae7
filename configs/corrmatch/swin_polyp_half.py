_base_ = 'swin_polyp_quarter.py'
train_dataloader = dict(dataset=dict(partition='polyp/half'))
