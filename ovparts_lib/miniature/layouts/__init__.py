"""The folder layouts and file formats in which the miniature can be written, one for each dataset."""
