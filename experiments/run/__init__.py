"""What the commands share: the command line, settings, jobs and their files."""
