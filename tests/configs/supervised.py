_base_ = ['tiny_model.py', 'tiny_run.py']
train_dataloader = _base_.supervised_dataloader
