# Table 1, row V: AC + AG + LA + HA, all of ACL-Net.
_base_ = '../mbv2_kvasir_eighth.py'
