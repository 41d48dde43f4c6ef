"""Changing weights: the tamper attacks that vetting runs, as what an adversary with the weights would do.

Holds the LoRA attack (`lora.py`), its training examples (`examples.py`), and the process that runs one attack
so that it can be interrupted (`attack.py`, `python -m dutchdoor.tuning.attack SPEC.json`). Refuses to judge
what an attack achieved (that is vetting's) and to attack weights that are quantised: no stand-in is attacked
in their place.
"""
