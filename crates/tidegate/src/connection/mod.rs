//! Bytes of a connection → request heads → the router.

pub mod admin;
pub mod http1;
