"""What a model is fed: loaders of images, worker processes, sources and stores of features."""
