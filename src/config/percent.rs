//! Percent-encoding, undone strictly.
//!
//! Owns [`decode`]. Promises: no fault shows the text, which may be a password. Leaves the parts of a URL to [`url`](super::url).
//! Fails where `%` is not followed by two hexadecimal digits, or where the result is not UTF-8.

/// What a `+` stands for: itself, or in a query a space.
#[derive(Clone, Copy)]
pub(super) enum Plus {
    Plain,
    Space,
}

/// Undoes percent-encoding, strictly. The text may be a password: a fault says what it belongs to, never what it is.
pub(super) fn decode(what: &str, text: &str, plus: Plus) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, plus) {
            (b'%', _) => hex(rest.next())
                .zip(hex(rest.next()))
                .map(|(high, low)| high << 4 | low)
                .ok_or_else(|| {
                    format!("{what}: `%` without two hexadecimal digits; legal: `%25`")
                })?,
            (b'+', Plus::Space) => b' ',
            (other, _) => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| format!("{what}: not valid UTF-8"))
}

fn hex(digit: Option<u8>) -> Option<u8> {
    match digit? {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'a'..=b'f' => Some(digit - b'a' + 10),
        digit @ b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}
