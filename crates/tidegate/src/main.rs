//! The gateway's command; all of it is in the library's `cli`.

use std::process::ExitCode;

// Lowest or within 5 % of it in every mode that was measured; build settings in
// `.cargo/config.toml` make it give memory back after a second. Windows has no jemalloc.
#[cfg(not(windows))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidegate::cli::run(std::env::args_os())
}
