"""Jobs: a data set of images to their noise, whatever happens on the way."""
