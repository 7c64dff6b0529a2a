"""Files of the published code: their layout, importing and exporting."""
