"""One importer for each outside library and each effect; edges never import each other."""
