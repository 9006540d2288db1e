//! Where pure code meets IO: the clients' sockets, the hub's inbox, and the bytes that both share.
//!
//! Nothing outside this folder writes to a stream's socket; nothing in it knows HTTP.

pub mod client;
pub mod compressed;
pub mod forms;
pub mod hub;
pub mod late;
pub mod opening;
pub mod output;
pub mod wake;
pub mod wheel;
