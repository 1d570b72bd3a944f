"""The commands of ``dlpipe``: one module each, imported when it is called."""
