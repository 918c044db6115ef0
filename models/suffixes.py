"""Which files are taken for images when a folder is listed."""

#: The endings of their names, in any case.
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".tiff", ".bmp")
