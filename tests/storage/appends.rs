//! What an append stores: numbers without holes, each message once, and nothing of whoever may not send.

use chat_service::model::access::{ChatRole, SystemRole};
use chat_service::model::{AppendOutcome, Bound, ChatId, MemberChange, Timestamp};
use chat_service::repository::StoreError;

use crate::fixture::{Fixture, contract, message, sequence, sequences, user};

contract!(
    numbers_have_no_holes_and_refused_messages_take_none,
    a_retry_gets_the_first_ones_place_in_the_same_batch_and_later,
    a_retry_is_answered_even_after_its_sender_was_removed,
    a_retry_is_answered_whatever_its_own_rights_in_the_same_batch_too,
    membership_is_checked_with_the_append,
    times_never_decrease_with_the_sequence,
    concurrent_appends_and_retries_to_one_chat_and_to_many_leave_no_hole,
    a_poison_message_is_refused_and_stores_nothing,
    after_a_removal_returned_nothing_of_that_user_is_stored,
);

async fn numbers_have_no_holes_and_refused_messages_take_none(f: Fixture) {
    let (one, two) = (f.chat(&["bob"]).await, f.chat(&[]).await);
    let outcomes = f
        .append(&[
            message(one, "owner", "1", "a"),
            message(two, "owner", "1", "b"),
            message(one, "eve", "1", "c"),
            message(one, "bob", "1", "d"),
        ])
        .await;
    assert_eq!(sequences(&outcomes), [Some(1), Some(1), None, Some(2)]);
    assert_eq!(outcomes[2], AppendOutcome::NotFound);
    assert_eq!(sequences(&f.append(&[message(one, "bob", "2", "e")]).await), [Some(3)]);
    assert_eq!(f.page(one, Bound::After(0), 10).await, (vec![1, 2, 3], false));
    assert_eq!(f.append(&[message(ChatId::generate(), "owner", "1", "x")]).await, [AppendOutcome::NotFound]);
}

async fn a_retry_gets_the_first_ones_place_in_the_same_batch_and_later(f: Fixture) {
    let chat = f.chat(&["bob"]).await;
    let (first, other) = (message(chat, "owner", "1", "a"), message(chat, "owner", "1", "other"));
    let same_id_of_bob = message(chat, "bob", "1", "a");
    let outcomes = f.append(&[first.clone(), first.clone(), other.clone(), same_id_of_bob]).await;
    let AppendOutcome::Stored { sequence: 1, created_at } = outcomes[0] else { panic!("{outcomes:?}") };
    let duplicate = AppendOutcome::Duplicate { sequence: 1, created_at };
    assert_eq!(outcomes[1..3], [duplicate, AppendOutcome::Conflict]);
    assert_eq!(sequence(&outcomes[3]), Some(2), "ids are their senders' own");
    assert_eq!(f.append(&[first, other]).await, [duplicate, AppendOutcome::Conflict]);
    assert_eq!(f.page(chat, Bound::After(0), 10).await, (vec![1, 2], false));
}

async fn a_retry_is_answered_even_after_its_sender_was_removed(f: Fixture) {
    let chat = f.chat(&["bob"]).await;
    let sent = message(chat, "bob", "1", "a");
    f.append(std::slice::from_ref(&sent)).await;
    f.change(chat, MemberChange::Remove(user("bob"))).await;
    let outcomes = f.append(&[sent, message(chat, "bob", "2", "b")]).await;
    assert!(matches!(outcomes[..], [AppendOutcome::Duplicate { sequence: 1, .. }, AppendOutcome::NotFound]), "{outcomes:?}");
}

async fn a_retry_is_answered_whatever_its_own_rights_in_the_same_batch_too(f: Fixture) {
    let chat = f.chat(&["bob"]).await;
    let first = message(chat, "bob", "1", "a");
    let mut by_reading_token = first.clone();
    by_reading_token.sender.role = SystemRole::Reader;
    let outcomes = f.append(&[by_reading_token.clone(), first, by_reading_token.clone()]).await;
    let AppendOutcome::Stored { sequence: 1, created_at } = outcomes[1] else { panic!("{outcomes:?}") };
    assert_eq!((outcomes[0], outcomes[2]), (AppendOutcome::Denied, AppendOutcome::Duplicate { sequence: 1, created_at }));
    assert_eq!(f.append(&[by_reading_token]).await, [outcomes[2]]);
}

async fn membership_is_checked_with_the_append(f: Fixture) {
    let chat = f.chat(&["bob", "rita"]).await;
    f.change(chat, MemberChange::Set(user("rita"), ChatRole::Reader)).await;
    let with_role = |sender: &str, role| {
        let mut message = message(chat, sender, "1", "a");
        message.sender.role = role;
        message
    };
    let outcomes = f
        .append(&[
            with_role("eve", SystemRole::User),
            with_role("rita", SystemRole::User),
            with_role("bob", SystemRole::Reader),
            // The same id again with a right to send: the refused one before it has stored nothing.
            with_role("bob", SystemRole::User),
            with_role("eve", SystemRole::Reader),
            with_role("backend", SystemRole::Service),
        ])
        .await;
    assert_eq!(outcomes[..3], [AppendOutcome::NotFound, AppendOutcome::Denied, AppendOutcome::Denied]);
    assert_eq!(sequences(&outcomes[3..]), [Some(1), None, Some(2)]);
    assert_eq!(outcomes[4], AppendOutcome::NotFound);
}

async fn times_never_decrease_with_the_sequence(f: Fixture) {
    let chat = f.chat(&[]).await;
    for number in 0..20 {
        f.append(&[message(chat, "owner", &number.to_string(), "a")]).await;
    }
    // The year 2100: a clock that ran ahead and was set right again.
    let ahead_secs = 4_102_444_800;
    f.set_last_message_at(chat, ahead_secs).await;
    let created_at = Timestamp::from_secs(i64::from(ahead_secs));
    let outcomes = f.append(&[message(chat, "owner", "later", "a"), message(chat, "owner", "last", "a")]).await;
    assert_eq!(outcomes, [21, 22].map(|sequence| AppendOutcome::Stored { sequence, created_at }));
    let page = f.page_of("owner", chat, Bound::After(0), 100, 1 << 20).await.unwrap();
    assert!(page.messages.is_sorted_by_key(|m| m.created_at));
}

async fn concurrent_appends_and_retries_to_one_chat_and_to_many_leave_no_hole(f: Fixture) {
    const EACH: i64 = 100;
    let hot = f.chat(&[]).await;
    let mut chats = vec![hot];
    for _ in 0..4 {
        chats.push(f.chat(&[]).await);
    }
    // Two lanes append the very same messages, in batches of other sizes; a third one's are its own.
    let mut tasks = Vec::new();
    for (lane_number, batch_size) in [(0, 7), (0, 10), (1, 3)] {
        let (mut lane, chats) = (f.lane().await, chats.clone());
        tasks.push(tokio::spawn(async move {
            let all: Vec<_> = (0..EACH)
                .flat_map(|n| chats.iter().map(move |chat| message(*chat, "owner", &format!("{lane_number}-{n}"), "a")).collect::<Vec<_>>())
                .collect();
            for batch in all.chunks(batch_size) {
                for outcome in lane.append(batch).await.unwrap() {
                    assert!(matches!(outcome, AppendOutcome::Stored { .. } | AppendOutcome::Duplicate { .. }), "{outcome:?}");
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for chat in chats {
        assert_eq!(f.page(chat, Bound::After(0), 1000).await.0, (1..=2 * EACH).collect::<Vec<_>>());
    }
}

async fn a_poison_message_is_refused_and_stores_nothing(f: Fixture) {
    let chat = f.chat(&[]).await;
    let poison = message(chat, "owner", "2", &"x".repeat(5000));
    let nameless = message(chat, "owner", "", "a");
    for batch in [vec![message(chat, "owner", "1", "a"), poison.clone()], vec![poison], vec![nameless]] {
        let error = f.try_append(&batch).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)) && !error.is_unknown_outcome(), "{error:?}");
    }
    assert_eq!(f.page(chat, Bound::After(0), 10).await, (vec![], false));
    assert_eq!(sequences(&f.append(&[message(chat, "owner", "1", "a")]).await), [Some(1)]);
}

async fn after_a_removal_returned_nothing_of_that_user_is_stored(f: Fixture) {
    let chat = f.chat(&["bob"]).await;
    let (removed, mut is_removed) = tokio::sync::watch::channel(false);
    let mut lane = f.lane().await;
    let sender = tokio::spawn(async move {
        let mut number = 0_usize;
        loop {
            let known = *is_removed.borrow_and_update();
            // Alone, and not.
            let batch = [0, 1].map(|of| message(chat, "bob", &format!("{number} {of}"), "a"));
            let outcomes = lane.append(&batch[number % 2..]).await.unwrap();
            if known && number % 2 == 1 {
                return outcomes[0];
            }
            assert!(!known || outcomes == [AppendOutcome::NotFound; 2], "{outcomes:?}");
            number += 1;
        }
    });
    f.change(chat, MemberChange::Remove(user("bob"))).await;
    removed.send(true).unwrap();
    assert_eq!(sender.await.unwrap(), AppendOutcome::NotFound);
    let last = f.chats.positions(&[chat]).await.unwrap()[0].last_sequence;
    assert_eq!(f.page(chat, Bound::After(0), 1_000_000).await.0, (1..=last).collect::<Vec<_>>());
}
