"""Clients on Ray: the executor, its pool of workers, what travels between them, the cluster beneath.

Imported only by those who use Ray: `fedlab.runtime.RayExecutor`.
"""
