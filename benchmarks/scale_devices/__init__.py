"""Eight virtual devices against one."""
