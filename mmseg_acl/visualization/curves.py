"""Curves of a run side by side, for a web page."""

import io
from collections.abc import Mapping

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmseg_acl.visualization.pictures import png_uri
from mmseg_acl.visualization.report import Curve

# Of so few points each has a mark.
FEW = 30


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
            axes.plot(iterations, values, label=label, marker='o' if len(iterations) <= FEW else None, ms=3)
        highest = max((max(values) for _, values in curves.values()), default=0)
        axes.set_ylim(0, 1.08 * highest if highest > 0 else None)
        axes.grid(alpha=0.3)
        if curves:
            axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110)
    return png_uri(buffer.getvalue())
