"""Training tasks: loss, metrics and train step."""
