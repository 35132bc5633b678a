"""The demo: the main use of the project on a local AWS, with its real components, as a timeline."""
