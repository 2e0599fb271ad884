//! As much of Redis's protocol as it takes to lose its messages, and nothing else, on the way.

/// The length of the first value; `None` where it isn't whole yet.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let after = end + 2;
    let count = || std::str::from_utf8(&bytes[1..end]).ok()?.parse::<i64>().ok();
    let values = match bytes[0] {
        b'$' | b'!' | b'=' => {
            let whole = usize::try_from(count()?).map_or(after, |length| after + length + 2);
            return (whole <= bytes.len()).then_some(whole);
        }
        b'*' | b'~' | b'>' => count()?,
        b'%' => count()? * 2,
        // Attributes stand before the value that they belong to.
        b'|' => count()? * 2 + 1,
        _ => 0,
    };
    let mut at = after;
    for _ in 0..values {
        at += length(&bytes[at..])?;
    }
    Some(at)
}

/// Whether a value is a message that was published, to be told from answers and from confirmations of subscriptions.
fn is_message(value: &[u8]) -> bool {
    let Some(end) = value.windows(2).position(|pair| pair == b"\r\n") else { return false };
    let first = &value[end + 2..];
    matches!(value[0], b'*' | b'>')
        && [&b"$7\r\nmessage\r\n"[..], b"$8\r\nsmessage\r\n", b"$8\r\npmessage\r\n"].iter().any(|kind| first.starts_with(kind))
}

/// Takes the whole values from the front of `held`: those that go on, with the messages left out that `drops` says to.
pub fn pass(held: &mut Vec<u8>, mut drops: impl FnMut() -> bool) -> Vec<u8> {
    let (mut passed, mut at) = (Vec::new(), 0);
    while let Some(length) = length(&held[at..]) {
        let value = &held[at..at + length];
        if !(is_message(value) && drops()) {
            passed.extend_from_slice(value);
        }
        at += length;
    }
    held.drain(..at);
    passed
}
