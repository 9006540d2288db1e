//! The server: not yet here.

use std::sync::Arc;

use crate::config::Config;

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
#[error("there is no server yet")]
pub struct Error;

/// Serves until it is told to stop.
///
/// # Errors
///
/// Always, as there is no server yet.
pub fn run(config: Arc<Config>) -> Result<(), Error> {
    drop(config);
    Err(Error)
}
