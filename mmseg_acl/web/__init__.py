from mmseg_acl.web.page import Page

__all__ = ['Page']
