"""The systems, one file each, and the blocks they share."""
