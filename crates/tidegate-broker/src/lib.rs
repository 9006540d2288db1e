//! The Broker trait, the embedded brokers, and the suite that every broker passes.

