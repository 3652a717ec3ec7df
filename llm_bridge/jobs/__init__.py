"""What the commands do, without the command line: one job per command."""
