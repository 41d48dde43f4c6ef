"""Models asked, under both threats, on the suites that the policies need: out comes signed evidence.

Holds suites, scorers, the runner, the plan and the laboratory. Refuses to measure a stand-in, to count an
error of the infrastructure as a wrong answer, and to judge: `dutchdoor.policy` does that.
"""
