"""The former place of `prsa.figures.scenes`, kept for scripts that import it from here."""

from .figures.scenes import class_spectra, maps_panel, picture, scene_gallery

__all__ = ["class_spectra", "maps_panel", "picture", "scene_gallery"]
