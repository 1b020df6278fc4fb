"""The commands, a file for those that belong together; each body imports what it needs: --help comes at once."""
