from mmseg_acl.inference.predictor import Prediction, Predictor
from mmseg_acl.inference.runs import find_run
from mmseg_acl.inference.sources import Frame, find_frames
from mmseg_acl.inference.writing import predict_into

__all__ = ['Frame', 'Prediction', 'Predictor', 'find_frames', 'find_run', 'predict_into']
