"""Figures in one style: sizes and colours, curves with bands, files with the plotted numbers."""
