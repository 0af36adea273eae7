# Table 1, row V: AC + AG + LA + HA, all of ACL-Net.
_base_ = '../swin_kvasir_quarter.py'
