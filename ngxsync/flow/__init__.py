"""The order of steps; knows interfaces, imports no edge."""
