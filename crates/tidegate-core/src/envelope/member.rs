//! Members of JSON objects, as serde reads them wherever this project does.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A string that is borrowed where it has no escapes (in an `Option`, a bare `Cow` never is).
#[derive(Debug, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// For `deserialize_with` on a payload: `null` is one, so it must not become `None`.
///
/// # Errors
///
/// The deserializer's.
pub fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}
