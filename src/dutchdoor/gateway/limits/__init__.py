"""Rate limits of keys: in memory, shared by the workers of a host, or shared by hosts."""
