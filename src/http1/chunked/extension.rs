//! The extensions of a chunk (RFC 9112 section 7.1.1), byte by byte. What they say is of no
//! interest here; only where they end is.

use crate::http1::field::{is_text, is_token};

/// What the next byte behind the first semicolon may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The first byte of a name, or a blank before it.
    Lead,
    /// A byte of a name, or what ends it.
    Name,
    /// Blanks behind a name: an equals sign or a semicolon must follow.
    BehindName,
    /// The first byte of a value, or a blank before it.
    ValueLead,
    /// A byte of a value that is a token, or what ends it.
    Value,
    /// Blanks behind a value: a semicolon must follow.
    BehindValue,
    /// A byte between quotes.
    Quoted,
    /// A byte behind a backslash between quotes.
    Escaped,
    /// What may follow the closing quote.
    Unquoted,
}

/// Whether the extensions may end here, as a carriage return behind them says.
pub(super) fn may_end(place: Place) -> bool {
    matches!(place, Place::Name | Place::Value | Place::Unquoted)
}

/// The place behind a byte; `None` where that byte may not stand there.
pub(super) fn step(place: Place, byte: u8) -> Option<Place> {
    let blank = matches!(byte, b' ' | b'\t');
    match (place, byte) {
        (Place::Quoted, b'"') => Some(Place::Unquoted),
        (Place::Quoted, b'\\') => Some(Place::Escaped),
        (Place::Quoted | Place::Escaped, _) => is_text(byte).then_some(Place::Quoted),
        (Place::Lead | Place::ValueLead, _) if blank => Some(place),
        (Place::Lead | Place::Name, _) if is_token(byte) => Some(Place::Name),
        (Place::ValueLead, b'"') => Some(Place::Quoted),
        (Place::ValueLead | Place::Value, _) if is_token(byte) => Some(Place::Value),
        (Place::Name | Place::BehindName, b'=') => Some(Place::ValueLead),
        (Place::Name | Place::BehindName, _) if blank => Some(Place::BehindName),
        (Place::Value | Place::Unquoted | Place::BehindValue, _) if blank => {
            Some(Place::BehindValue)
        }
        (Place::Lead | Place::ValueLead, _) => None,
        (_, b';') => Some(Place::Lead),
        _ => None,
    }
}
