"""Studies of trained models: redundancy, compression, the bank of LFPV."""
