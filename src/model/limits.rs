//! The limits that the API states. Lengths of strings are in `proto/`, beside their fields.

/// Members that a chat may hold.
pub const MEMBERS_PER_CHAT: usize = 10_000;
/// What a `page_size` of 0 means.
pub const PAGE_SIZE_DEFAULT: i32 = 50;
/// What a `page_size` above this means.
pub const PAGE_SIZE_MAX: i32 = 500;
/// Where a page ends early, in bytes of its entries.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// The largest request message, in bytes.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Chats that one stream may have joined.
pub const CHATS_PER_STREAM: usize = 128;
/// Sends of one stream that may be unsettled; at this the server stops reading the stream.
pub const UNSETTLED_SENDS_PER_STREAM: usize = 256;
/// Characters of a user's id (the token's `sub`).
pub const USER_ID_CHARS_MAX: usize = 128;

/// The page size that a request gets.
pub fn page_size(requested: i32) -> usize {
    let size = if requested == 0 { PAGE_SIZE_DEFAULT } else { requested.min(PAGE_SIZE_MAX) };
    usize::try_from(size).unwrap_or(0)
}
