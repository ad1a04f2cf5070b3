"""Raw folders: layouts, readers, coordinates."""
