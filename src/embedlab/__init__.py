"""Two families of tracked experiments, one idea: learn an embedding, look at it, serve it.

`datasets` knows where files come from, `movies` and `vision` compute, `tracking` talks to MLflow.
"""
