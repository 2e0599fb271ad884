//! Requests to begin with: most keep the limits, many stand right at one.

use chat_service::pb::chat::v1::connect_chat_request::Frame;
use chat_service::pb::chat::v1::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any};
use proptest::prop_oneof;
use proptest::sample::{Index, select};
use uuid::Uuid;

/// Texts around a limit of characters, of one to four bytes each.
pub fn text(max: usize) -> impl Strategy<Value = String> {
    let lengths = select(vec![0, 1, 1, 2, 2, max - 1, max, max + 1]);
    let repeated = (select(vec!['a', 'b', 'é', '語', '💬', ' ', '\u{3000}']), lengths).prop_map(|(c, n)| c.to_string().repeat(n));
    prop_oneof![8 => repeated, 2 => any::<String>(), 1 => Just("a\0b".to_owned()), 1 => Just(" \n\u{a0}x".to_owned())]
}

/// Mostly a chat's id; else another form of one, or anything.
pub fn id() -> impl Strategy<Value = String> {
    let uuid = || any::<u128>().prop_map(Uuid::from_u128);
    prop_oneof![
        12 => uuid().prop_map(|id| id.to_string()),
        1 => uuid().prop_map(|id| id.to_string().to_uppercase()),
        1 => uuid().prop_map(|id| id.simple().to_string()),
        1 => uuid().prop_map(|id| id.braced().to_string()),
        1 => "[0-9a-f-]{36}",
        1 => text(36),
    ]
}

/// Counts around a limit, made of one value: what is long needn't be manifold.
fn many<T: Clone + std::fmt::Debug>(one: impl Strategy<Value = T> + Clone, max: usize) -> impl Strategy<Value = Vec<T>> {
    let long = (one.clone(), select(vec![max - 1, max, max + 1])).prop_map(|(one, count)| vec![one; count]);
    prop_oneof![9 => vec(one, 0..4), 1 => long]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![4 => 0_i64..10, 1 => select(vec![-1, i64::MIN, i64::MAX]), 1 => any::<i64>()]
}

fn small_number() -> impl Strategy<Value = i32> {
    prop_oneof![4 => 0_i32..1_000, 1 => select(vec![-1, i32::MIN, i32::MAX])]
}

pub fn create_chat() -> impl Strategy<Value = CreateChatRequest> {
    (text(200), many(text(128).boxed(), 1_000), text(64)).prop_map(|(title, member_ids, request_id)| CreateChatRequest {
        title,
        member_ids,
        request_id,
    })
}

pub fn get_chat() -> impl Strategy<Value = GetChatRequest> {
    id().prop_map(|chat_id| GetChatRequest { chat_id })
}

pub fn list_chats() -> impl Strategy<Value = ListChatsRequest> {
    (small_number(), text(256)).prop_map(|(page_size, page_token)| ListChatsRequest { page_size, page_token })
}

pub fn delete_chat() -> impl Strategy<Value = DeleteChatRequest> {
    id().prop_map(|chat_id| DeleteChatRequest { chat_id })
}

pub fn add_members() -> impl Strategy<Value = AddMembersRequest> {
    let role = prop_oneof![6 => 1_i32..=4, 1 => select(vec![-1, 0, 5, i32::MAX])];
    let member = (text(128), role).prop_map(|(user_id, role)| NewMember { user_id, role }).boxed();
    (id(), many(member, 1_000)).prop_map(|(chat_id, members)| AddMembersRequest { chat_id, members })
}

pub fn remove_member() -> impl Strategy<Value = RemoveMemberRequest> {
    (id(), text(128)).prop_map(|(chat_id, user_id)| RemoveMemberRequest { chat_id, user_id })
}

pub fn send_message() -> impl Strategy<Value = SendMessageRequest> {
    (id(), text(4_096), text(64)).prop_map(|(chat_id, text, client_message_id)| SendMessageRequest { chat_id, text, client_message_id })
}

pub fn list_messages() -> impl Strategy<Value = ListMessagesRequest> {
    let bounds = (option::of(number()), option::of(number()));
    (id(), small_number(), bounds).prop_map(|(chat_id, page_size, (after_sequence, before_sequence))| ListMessagesRequest {
        chat_id,
        page_size,
        after_sequence,
        before_sequence,
    })
}

/// A frame of any kind, of chats and with tokens that are drawn from what is given.
pub fn frame(
    id: impl Strategy<Value = String> + Clone + 'static,
    token: impl Strategy<Value = String> + 'static,
) -> impl Strategy<Value = ConnectChatRequest> {
    let join = (id.clone(), option::of(number()), any::<bool>())
        .prop_map(|(chat_id, after_sequence, follow)| Frame::Join(JoinFrame { chat_id, after_sequence, follow }));
    let leave = id.clone().prop_map(|chat_id| Frame::Leave(LeaveFrame { chat_id }));
    let send = (id, text(64), text(4_096))
        .prop_map(|(chat_id, client_message_id, text)| Frame::Send(SendFrame { chat_id, client_message_id, text }));
    let refresh = token.prop_map(|token| Frame::RefreshToken(RefreshTokenFrame { token }));
    let frame = prop_oneof![4 => join, 2 => leave, 6 => send, 1 => refresh];
    option::weighted(0.95, frame).prop_map(|frame| ConnectChatRequest { frame })
}

/// A change of some bytes.
#[derive(Clone, Debug)]
pub enum Edit {
    Flip(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Repeat(Index, Index),
    Cut(Index),
}

pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = any::<Index>;
    let edit = prop_oneof![
        (at(), 1..=u8::MAX).prop_map(|(at, bits)| Edit::Flip(at, bits)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        at().prop_map(Edit::Remove),
        (at(), at()).prop_map(|(from, to)| Edit::Repeat(from, to)),
        at().prop_map(Edit::Cut),
    ];
    prop_oneof![2 => Just(Vec::new()), 3 => vec(edit, 1..4)]
}

pub fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let length = bytes.len();
        match edit {
            Edit::Insert(at, byte) => bytes.insert(at.index(length + 1), *byte),
            _ if length == 0 => {}
            Edit::Flip(at, bits) => bytes[at.index(length)] ^= bits,
            Edit::Remove(at) => {
                bytes.remove(at.index(length));
            }
            Edit::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let part = bytes[from.min(to)..=from.max(to)].to_vec();
                let rest = bytes.split_off(from);
                bytes.extend(part.into_iter().chain(rest));
            }
            Edit::Cut(at) => bytes.truncate(at.index(length)),
        }
    }
    bytes
}
