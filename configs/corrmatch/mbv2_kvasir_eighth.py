_base_ = 'mbv2_kvasir_quarter.py'
train_dataloader = dict(dataset=dict(partition='kvasir/eighth'))
