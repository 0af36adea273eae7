_base_ = 'r50_kvasir_quarter.py'
train_dataloader = dict(dataset=dict(partition='kvasir/eighth'))
