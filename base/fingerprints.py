"""Fingerprints that say that a listing could not tell which bytes an image has. No other fingerprint equals them."""

#: Nothing tells whether its bytes are the same as before, so they are fetched to see.
UNKNOWN = "unknown"
#: A manifest says that it exists, and where it should be it was not to be had.
MISSING = "missing"
