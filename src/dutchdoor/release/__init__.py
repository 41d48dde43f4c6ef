"""The whole way of a release, step by step: vet, decide, pack, check, serve.

Each step is a room's own verb; what is here is their order and what passes from one to the next. Judges nothing.
"""
