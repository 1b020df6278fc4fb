"""The commands, one file for those that belong together; each body imports what it needs, for --help to come at once."""
