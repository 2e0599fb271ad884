//! What is read, and what becomes of chats and their members.

use chat_service::model::access::ChatRole;
use chat_service::model::chat::CreateKey;
use chat_service::model::{AppendOutcome, Bound, MemberChange, MembersChanged, Refusal, Timestamp};
use chat_service::repository::CreateOutcome;

use crate::fixture::{Fixture, contract, message, new_chat, user};

contract!(
    pages_go_both_ways_and_end_early_by_weight,
    a_deleted_chat_is_gone_at_once_and_purged_in_chunks,
    a_request_id_makes_one_chat,
    changes_of_members_raise_the_access_version,
    a_users_chats_are_listed_newest_first,
);

async fn pages_go_both_ways_and_end_early_by_weight(f: Fixture) {
    let chat = f.chat(&[]).await;
    assert_eq!(f.page(chat, Bound::Latest, 2).await, (vec![], false));
    let batch: Vec<_> = (1..=5).map(|number| message(chat, "owner", &number.to_string(), &"語".repeat(1000))).collect();
    f.append(&batch).await;
    assert_eq!(f.page(chat, Bound::After(0), 2).await, (vec![1, 2], true));
    assert_eq!(f.page(chat, Bound::After(3), 2).await, (vec![4, 5], false));
    assert_eq!(f.page(chat, Bound::After(5), 2).await, (vec![], false));
    assert_eq!(f.page(chat, Bound::Before(4), 2).await, (vec![2, 3], true));
    assert_eq!(f.page(chat, Bound::Before(3), 2).await, (vec![1, 2], false));
    assert_eq!(f.page(chat, Bound::Latest, 2).await, (vec![4, 5], true));
    let light = f.page_of("owner", chat, Bound::After(0), 5, 1).await.unwrap();
    assert_eq!((light.messages.len(), light.has_more, light.last_sequence), (1, true, 5), "at least one");
    let two = f.page_of("owner", chat, Bound::Latest, 5, 4000).await.unwrap();
    assert_eq!(two.messages.iter().map(|m| m.sequence).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(f.page_of("eve", chat, Bound::After(0), 5, 1 << 20).await, None);
}

async fn a_deleted_chat_is_gone_at_once_and_purged_in_chunks(f: Fixture) {
    let key = CreateKey { request_id: "r".into(), digest: [1; 32] };
    let chat = new_chat("owner", &["bob"], Some(key.clone()));
    f.chats.create(&chat).await.unwrap();
    let batch: Vec<_> = (0..10).map(|n| message(chat.id, "owner", &n.to_string(), "a")).collect();
    f.append(&batch).await;
    let refused = f.chats.delete(chat.id, &user("bob"), Timestamp::from_micros(2), &|_| Err(Refusal::Denied)).await.unwrap();
    assert_eq!(refused, Err(Refusal::Denied));
    f.chats.delete(chat.id, &user("owner"), Timestamp::from_micros(2), &|_| Ok(())).await.unwrap().unwrap();

    assert_eq!(f.chats.find(chat.id, &user("owner")).await.unwrap(), None);
    assert_eq!(f.page_of("owner", chat.id, Bound::Latest, 1, 1).await, None);
    assert_eq!(f.append(&[batch[0].clone()]).await, [AppendOutcome::NotFound], "even a retry");
    assert!(f.chats.list(&user("bob"), None, 10).await.unwrap().is_empty());
    assert!(f.chats.positions(&[chat.id]).await.unwrap().is_empty());
    assert!(f.chats.members(chat.id).await.unwrap().is_empty());
    let again = f.chats.delete(chat.id, &user("owner"), Timestamp::from_micros(3), &|_| Ok(())).await.unwrap();
    assert_eq!(again, Err(Refusal::ChatNotFound));
    assert_eq!(f.chats.create(&new_chat("owner", &[], Some(key))).await.unwrap(), CreateOutcome::Created, "its request_id is free");

    let mut removed = Vec::new();
    loop {
        match f.chats.purge_deleted(4).await.unwrap() {
            0 => break,
            rows => removed.push(rows),
        }
    }
    assert!(removed.iter().all(|rows| *rows <= 4), "{removed:?}");
    assert_eq!(removed.iter().sum::<usize>(), 10 + 2 + 1, "messages, members, the chat");
}

async fn a_request_id_makes_one_chat(f: Fixture) {
    let key = |digest| Some(CreateKey { request_id: "r".into(), digest: [digest; 32] });
    let first = new_chat("owner", &[], key(1));
    assert_eq!(f.chats.create(&first).await.unwrap(), CreateOutcome::Created);
    assert_eq!(f.chats.create(&new_chat("owner", &[], key(1))).await.unwrap(), CreateOutcome::Existing(first.id));
    assert_eq!(f.chats.create(&new_chat("owner", &[], key(2))).await.unwrap(), CreateOutcome::Conflict);
    assert_eq!(f.chats.create(&new_chat("bob", &[], key(2))).await.unwrap(), CreateOutcome::Created, "per creator");
}

async fn changes_of_members_raise_the_access_version(f: Fixture) {
    let chat = f.chat(&["bob"]).await;
    let version = async || f.chats.positions(&[chat]).await.unwrap()[0].access_version;
    let first = version().await;
    let set = f.change(chat, MemberChange::Set(user("bob"), ChatRole::Reader)).await;
    assert_eq!((set, version().await), (first + 1, first + 1));
    let removed = f.change(chat, MemberChange::Remove(user("bob"))).await;
    assert_eq!((removed, version().await), (first + 2, first + 2));
    let none = f.chats.change_members(chat, &[], Timestamp::from_micros(1), &|_| Ok(vec![])).await.unwrap().unwrap();
    let unchanged = MembersChanged { changes: vec![], access_version: first + 2 };
    assert_eq!((none, version().await), (unchanged, first + 2), "no change, no new version");
}

async fn a_users_chats_are_listed_newest_first(f: Fixture) {
    let mut chats = Vec::new();
    for _ in 0..3 {
        chats.push(f.chat(&["bob"]).await);
    }
    f.chat(&[]).await;
    chats.sort_unstable();
    chats.reverse();
    let ids = async |before, limit| f.chats.list(&user("bob"), before, limit).await.unwrap().iter().map(|c| c.id).collect::<Vec<_>>();
    assert_eq!(ids(None, 10).await, chats);
    assert_eq!(ids(Some(chats[0]), 1).await, chats[1..2]);
}
