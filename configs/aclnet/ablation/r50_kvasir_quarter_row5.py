# Table 1, row V: AC + AG + LA + HA, all of ACL-Net.
_base_ = '../r50_kvasir_quarter.py'
