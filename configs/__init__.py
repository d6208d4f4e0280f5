"""The settings of every experiment: schemas composed of their owners' dataclasses, and the YAML files."""
