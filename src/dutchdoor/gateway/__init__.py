"""The keyed, metered, priced API over both tiers: auth, admit, route, contract, stream through, settle.

Refuses what it cannot do by name and never drops a parameter silently. Nothing is served without a key,
nothing is answered without a reservation, and no response is closed before what it came to is on the disk.
"""
