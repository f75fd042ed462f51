"""Depth: the block, the stack of blocks as a loop or a scan, blocks that tokens skip, rematerialisation."""
