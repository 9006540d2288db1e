//! The gateway's behaviour without IO, clock or randomness of its own.

