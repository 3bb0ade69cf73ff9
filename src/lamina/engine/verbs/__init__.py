"""The verbs of the façade by subject; each is a straight line to the module that does the work."""
