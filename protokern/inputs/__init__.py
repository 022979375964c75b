"""The inputs of a model: loaders of images, worker processes, sources and stores of features."""
