"""The command line: each module parses the arguments of a group of commands, makes one call and prints the result."""
