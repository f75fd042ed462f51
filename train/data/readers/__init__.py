"""Readers of files: tables and JSON lines, images, videos, scenes with boxes, archives, times."""
