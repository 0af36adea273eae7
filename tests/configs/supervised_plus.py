_base_ = 'supervised_strong.py'
model = dict(type='SupervisedPlus')
