//! Percent-encoding, as paths and query strings have it.

/// The text that an encoded one stands for; `None` where an escape is broken or the outcome isn't UTF-8.
pub fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => (digit(rest.next()?)? << 4) | digit(rest.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The same for names and values of a query, where `+` is a blank.
pub fn decode_form(encoded: &str) -> Option<String> {
    decode(&encoded.replace('+', " "))
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_once_and_broken_ones_are_refused() {
        for (encoded, text) in [("", ""), ("a%2Fb", "a/b"), ("%E8%AA%9E", "語"), ("%252F", "%2F"), ("a+b", "a+b"), ("%00", "\0")] {
            assert_eq!(decode(encoded).as_deref(), Some(text), "{encoded}");
        }
        for broken in ["%", "%2", "%zz", "a%", "%ff", "%C3%28", "%+1"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
        assert_eq!(decode_form("a+b%2B").as_deref(), Some("a b+"));
    }
}
