"""Two processes against one."""
