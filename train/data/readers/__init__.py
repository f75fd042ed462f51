"""Readers of files: tables, JSON lines, images, videos, boxes, archives, timestamps."""
