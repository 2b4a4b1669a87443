"""The training core: frozen trunk, stacked adapters, objective, neighbours and silence. It knows examples and records,
not documents or stores; the compiler trains with it, interference measures with it."""
