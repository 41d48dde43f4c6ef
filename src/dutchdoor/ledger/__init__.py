"""What happened and what it costs: keys, budgets, reservations, usage, prices and bills, in SQLite.

Money is integer nano-dollars, prices are integer pico-dollars a token. Everything that is acknowledged is
durable. Refuses prices that are not a whole number of pico-dollars, and never takes an unknown price for 0.
"""

from dutchdoor.ledger.keys import Key, NewKey
from dutchdoor.ledger.prices import Price
from dutchdoor.ledger.store import Ledger

__all__ = ["Key", "Ledger", "NewKey", "Price"]
