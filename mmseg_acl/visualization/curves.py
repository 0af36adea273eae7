"""Curves of a run side by side, for a web page."""

import io
from collections.abc import Mapping

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmseg_acl.visualization.pictures import png_uri
from mmseg_acl.visualization.report import Curve


def plot_curves(panels: Mapping[str, Mapping[str, Curve]]) -> str:
    """Line plots side by side, as the address of an <img>.

    Args:
        panels: {title: {label: (iterations, values)}}.
    """
    figure = Figure(figsize=(4.2 * len(panels), 2.8), layout='constrained')
    FigureCanvasAgg(figure)
    for index, (title, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1, title=title, xlabel='iteration')
        for label, (iterations, values) in curves.items():
            axes.plot(iterations, values, label=label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if curves:
            axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110)
    return png_uri(buffer.getvalue())
