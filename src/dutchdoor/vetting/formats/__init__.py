"""What other tools write: their logs into samples, their data sets into suites, our outcomes into their logs.

Reads and writes files. Asks no model, signs nothing, and decides nothing about what it read.
"""
