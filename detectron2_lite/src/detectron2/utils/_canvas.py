"""What the visualizer draws on, and its primitives."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.structures import polygons_to_bitmask
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon, Rectangle

from ._generic_mask import GenericMask
from .colormap import random_color

_LARGE_MASK_AREA = 120000  # pixels; larger parts of a mask get a label each


class VisImage:
    """An image to draw on, by matplotlib.

    Attributes:
        fig, ax, canvas: matplotlib's objects; data coordinates are pixels of the image.
        width, height: of the image; the output has ``scale`` times as many pixels.
    """

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        """
        Args:
            img: RGB (H, W, 3) in [0, 255].
            scale: output pixels per image pixel.
        """

        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.fig = Figure(frameon=False)
        self.dpi = self.fig.get_dpi()
        # matplotlib truncates to whole pixels: the margin keeps rounding errors from costing one
        self.fig.set_size_inches((self.width * scale + 1e-2) / self.dpi, (self.height * scale + 1e-2) / self.dpi)
        self.canvas = FigureCanvasAgg(self.fig)
        self.ax = self.fig.add_axes([0.0, 0.0, 1.0, 1.0])
        self.ax.axis("off")
        self.reset_image(img)

    def reset_image(self, img: np.ndarray) -> None:
        """Put another image of the same size behind the drawings."""
        extent = (0, self.width, self.height, 0)
        self.ax.imshow(img.astype(np.uint8), extent=extent, interpolation="nearest")

    def save(self, filepath: Any) -> None:
        """Write to a file, whose name says the format."""
        self.fig.savefig(filepath)

    def get_image(self) -> np.ndarray:
        """The drawing, uint8 RGB (H * scale, W * scale, 3)."""
        buffer, (width, height) = self.canvas.print_to_buffer()
        return np.frombuffer(buffer, dtype=np.uint8).reshape(height, width, 4)[:, :, :3].copy()


def change_brightness(color: Any, factor: float) -> tuple[float, float, float]:
    """Lighten (``factor`` in (0, 1]) or darken ([-1, 0)) a matplotlib colour by scaling its lightness by 1 + factor."""

    assert -1.0 <= factor <= 1.0, f"A brightness factor is in [-1, 1], got {factor}"
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(color))
    rgb = colorsys.hls_to_rgb(hue, min(max(lightness * (1 + factor), 0.0), 1.0), saturation)
    return tuple(np.clip(rgb, 0.0, 1.0))


class DrawingPrimitives:
    """Text, lines and areas in pixel coordinates of the image. Colours are matplotlib's; all methods return the canvas.

    Attributes:
        output: the canvas.
    """

    def __init__(self, output: VisImage, font_size_scale: float) -> None:
        self.output = output
        self._image_side = np.sqrt(output.height * output.width)
        # smaller text cannot be read
        self._default_font_size = max(self._image_side // 90, 10 // output.scale) * font_size_scale

    def draw_text(
        self,
        text: str,
        position: Sequence[float],
        *,
        font_size: float | None = None,
        color: Any = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Write on a black background, with the top of the text at ``position`` (x, y); dark colours are lightened."""

        color = np.maximum(to_rgb(color), 0.2)
        color[np.argmax(color)] = max(0.8, np.max(color))
        self.output.ax.text(
            *position,
            text,
            size=(font_size or self._default_font_size) * self.output.scale,
            family="sans-serif",
            bbox={"facecolor": "black", "alpha": 0.8, "pad": 0.7, "edgecolor": "none"},
            verticalalignment="top",
            horizontalalignment=horizontal_alignment,
            color=color,
            zorder=10,
            rotation=rotation,
        )
        return self.output

    def draw_box(
        self, box_coord: Sequence[float], alpha: float = 0.5, edge_color: Any = "g", line_style: str = "-"
    ) -> VisImage:
        """Draw the outline of a box (x0, y0, x1, y1)."""

        x0, y0, x1, y1 = box_coord
        width = max(self._default_font_size / 4, 1) * self.output.scale
        style = {"edgecolor": edge_color, "linewidth": width, "alpha": alpha, "linestyle": line_style}
        self.output.ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, **style))
        return self.output

    def draw_circle(self, circle_coord: Sequence[float], color: Any, radius: float = 3) -> VisImage:
        """Draw a filled circle at (x, y)."""

        self.output.ax.add_patch(Circle(circle_coord, radius=radius, fill=True, color=color))
        return self.output

    def draw_line(
        self,
        x_data: Sequence[float],
        y_data: Sequence[float],
        color: Any,
        linestyle: str = "-",
        linewidth: float | None = None,
    ) -> VisImage:
        """Draw a line through points."""

        width = max(self._default_font_size / 3 if linewidth is None else linewidth, 1) * self.output.scale
        self.output.ax.add_line(Line2D(x_data, y_data, linewidth=width, color=color, linestyle=linestyle))
        return self.output

    def draw_polygon(self, segment: np.ndarray, color: Any, edge_color: Any = None, alpha: float = 0.5) -> VisImage:
        """Draw a filled polygon (N, 2); the edge is opaque, by default of the same colour, darker if nearly opaque."""

        if edge_color is None:
            edge_color = change_brightness(color, -0.7) if alpha > 0.8 else color
        width = max(self._default_font_size // 15 * self.output.scale, 1)
        colors = {"facecolor": (*to_rgb(color), alpha), "edgecolor": (*to_rgb(edge_color), 1)}
        self.output.ax.add_patch(Polygon(segment, fill=True, linewidth=width, **colors))
        return self.output

    def draw_binary_mask(
        self,
        binary_mask: np.ndarray,
        color: Any = None,
        *,
        edge_color: Any = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: float | None = 10,
    ) -> VisImage:
        """Draw a bitmap (H, W).

        Args:
            binary_mask: 0 or 1, or boolean.
            color: default random.
            edge_color: of the outline.
            text: written on its largest part and on very large others.
            alpha: opacity.
            area_threshold: smaller parts, in pixels, are left out.
        """

        color = to_rgb(random_color(rgb=True, maximum=1) if color is None else color)
        mask = GenericMask(np.asarray(binary_mask), self.output.height, self.output.width)
        parts = _parts(mask)
        if mask.has_holes:  # polygons would cover them
            self._draw_overlay(mask.mask == 1, color, alpha)
            drawn = True
        else:
            least = area_threshold or 0
            shown = [p for p, part in zip(mask.polygons, parts, strict=True) if part.sum() >= least]
            for polygon in shown:
                self.draw_polygon(polygon.reshape(-1, 2), color=color, edge_color=edge_color, alpha=alpha)
            drawn = len(shown) > 0
        if text is not None and drawn:
            self._draw_text_in_parts(text, parts, color)
        return self.output

    def draw_soft_mask(
        self, soft_mask: np.ndarray, color: Any = None, *, text: str | None = None, alpha: float = 0.5
    ) -> VisImage:
        """Draw a mask (H, W) in [0, 1] whose value scales the opacity; text as in :meth:`draw_binary_mask`."""
        color = self._draw_overlay(soft_mask, color, alpha)
        if text is not None:
            mask = GenericMask(soft_mask > 0.5, self.output.height, self.output.width)
            self._draw_text_in_parts(text, _parts(mask), color)
        return self.output

    def _draw_overlay(self, opacity: np.ndarray, color: Any, alpha: float) -> tuple[float, float, float]:

        color = to_rgb(random_color(rgb=True, maximum=1) if color is None else color)
        rgba = np.zeros((*opacity.shape, 4), dtype=np.float32)
        rgba[..., :3], rgba[..., 3] = color, opacity * alpha
        self.output.ax.imshow(rgba, extent=(0, self.output.width, self.output.height, 0))
        return color

    def _draw_text_in_parts(self, text: str, parts: list[np.ndarray], color: Any) -> None:
        areas = [part.sum() for part in parts]
        for part, area in zip(parts, areas, strict=True):
            if area > 0 and (area == max(areas) or area > _LARGE_MASK_AREA):
                center = np.median(part.nonzero(), axis=1)[::-1]
                self.draw_text(text, center, color=change_brightness(color, 0.7))


def _parts(mask: GenericMask) -> list[np.ndarray]:
    """The bitmap within each outline."""
    inside = (polygons_to_bitmask([p], mask.height, mask.width) for p in mask.polygons)
    return [part & (mask.mask == 1) for part in inside]
