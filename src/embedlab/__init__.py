"""Learn an embedding of images or movies, look at it, register it and serve it.

docs/architecture.md describes the layers.
"""
