//! Which of several forms a client likes best (RFC 9110 §12.5.1).

use http::header::{ACCEPT, HeaderMap};

/// The form that `Accept` weighs most, then the one that it names most exactly, then the first of
/// `offered` (type, subtype, form); `None` where none is accepted.
#[must_use]
pub fn negotiate<T: Copy>(headers: &HeaderMap, offered: &[(&str, &str, T)]) -> Option<T> {
    let ranges: Vec<_> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|it| it.to_str().ok())
        .flat_map(|it| it.split(','))
        .filter_map(range)
        .collect();
    if ranges.is_empty() {
        return offered.first().map(|(.., form)| *form);
    }
    let mut best = None;
    for (kind, subkind, form) in offered {
        let weight = ranges.iter().filter_map(|(of, sub, weight)| {
            let exact = match (*of, *sub) {
                ("*", "*") => 0,
                (of, "*") if of.eq_ignore_ascii_case(kind) => 1,
                (of, sub) if of.eq_ignore_ascii_case(kind) && sub.eq_ignore_ascii_case(subkind) => {
                    2
                }
                _ => return None,
            };
            Some((exact, *weight))
        });
        // The most exact range says what this one weighs.
        let Some((exact, weight)) = weight.max() else { continue };
        if weight > 0 && best.is_none_or(|(rank, _)| (weight, exact) > rank) {
            best = Some(((weight, exact), *form));
        }
    }
    best.map(|(_, form)| form)
}

/// Type, subtype and weight in thousandths of one range.
fn range(text: &str) -> Option<(&str, &str, u32)> {
    let mut parts = text.split(';').map(str::trim);
    let (kind, subkind) = parts.next()?.split_once('/')?;
    let weight = parts.find_map(|it| {
        let (name, value) = it.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().ok())?
    });
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to what fits"
    )]
    let weight = (weight.unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0) as u32;
    Some((kind, subkind, weight))
}
