"""What a process has served, told to the daemon of its node through a small file of its own."""
