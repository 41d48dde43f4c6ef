"""Changing weights: the tamper attacks that vetting runs, as what an adversary with the weights would do.

| file | holds |
|---|---|
| `record.py` | rungs, the spec of an attack, its steps and its record: values only, no torch |
| `attack.py` | the process that runs one attack: `python -m dutchdoor.tuning.attack SPEC.json` |
| `lora.py`, `full.py` | what is trained; `training.py` is the course both run, `resume.py` where it goes on from |
| `ablation.py` | the refusal direction: found (`direction.py`) and taken out of the stream (`residual.py`) |
| `examples.py`, `compliance.py`, `weights.py` | what is trained on; whether a model complies; weights in and out |

Refuses to judge what an attack achieved (that is vetting's) and to attack weights that are quantised: no
stand-in is attacked in their place.
"""
