"""Outcomes, what they depend on, who signed them, and what they measure.

Holds signed evidence and turns outcomes into measures with bounds. Refuses evidence that is broken,
misnamed or signed by nobody who is trusted. Makes no outcome (`dutchdoor.vetting`) and judges none
(`dutchdoor.policy`).
"""
