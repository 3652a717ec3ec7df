"""Folders, caches and line files that survive kills and other processes."""
