//! The benchmarks of `bench/`.

/// Says that there is nothing to run yet.
///
/// # Errors
///
/// Always.
pub(crate) fn run(_args: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("there are no benchmarks yet: bench/ is empty")
}
