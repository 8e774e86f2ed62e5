"""All measurements of many images, devices and processes."""
