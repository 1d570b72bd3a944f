"""The work of dlpipe: augment, train, export, deploy."""
