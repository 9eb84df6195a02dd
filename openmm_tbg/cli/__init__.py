"""The command `openmm-tbg`: a module for each of its commands, thin over the public API."""
