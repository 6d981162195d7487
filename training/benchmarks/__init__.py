"""The rows of ``training.benchmark``: each module measures one thing and returns ``Row``s."""
