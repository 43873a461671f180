"""Somebody's Flower app: run unmodified on our Grid, watched from both sides, audited.

The server's side sees what a curious server would have seen (`Sight`); the clients' side records what was
trained on (`Recording`), which only the scorer meets.
"""
