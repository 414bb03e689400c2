"""The command line, one module a group of commands: each parses its arguments, makes one call and prints."""
