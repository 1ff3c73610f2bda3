"""Benchmarks of the train step, data, fine-tuning and serving."""
