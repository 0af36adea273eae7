_base_ = 'swin_clinicdb_quarter.py'
train_dataloader = dict(dataset=dict(partition='clinicdb/half'))
