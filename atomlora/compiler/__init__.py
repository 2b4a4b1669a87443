"""The compiler: documents become atoms, atoms become micro-LoRAs, many at once."""
