"""The command line: options, output, progress, exit codes. It decides nothing about files."""
