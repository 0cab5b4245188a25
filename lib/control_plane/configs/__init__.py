"""Configuration: layers merged by the daemon, leaves read one by one."""
