_base_ = 'r50_clinicdb_quarter.py'
train_dataloader = dict(dataset=dict(partition='clinicdb/half'))
