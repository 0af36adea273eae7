_base_ = 'r50_polyp_quarter.py'
train_dataloader = dict(dataset=dict(partition='polyp/eighth'))
