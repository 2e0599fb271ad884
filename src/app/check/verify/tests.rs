//! The judge judged: each test takes a good history, breaks one promise in it, and the judge must find that and nothing else.

use super::*;

const SENDER: Via = Via { client: 0, connection: 1 };
const READER: Via = Via { client: 1, connection: 1 };

fn message(sequence: i64) -> Message {
    Message { sequence, sender: "s".into(), id: format!("m{sequence}"), text: format!("text {sequence}"), created_at_us: 1_000 + sequence }
}

fn attempt(via: Via, of: &Message) -> Record {
    Record::Attempt { via, chat: 0, sender: of.sender.clone(), id: of.id.clone(), text: of.text.clone() }
}

fn acknowledged(via: Via, of: &Message) -> Record {
    let Message { sequence, sender, id, created_at_us, .. } = of.clone();
    Record::Acknowledged { via, chat: 0, sender, id, sequence, created_at_us, probe: false }
}

fn delivered(via: Via, message: Message) -> Record {
    Record::Delivered { via, chat: 0, message }
}

fn listed(message: Message) -> Record {
    Record::Listed { chat: 0, message }
}

/// Five messages sent, acknowledged, delivered across a reconnection, and listed.
fn good() -> Vec<Record> {
    let again = Via { connection: 2, ..READER };
    let mut records = vec![
        Record::Run { version: VERSION, chats: vec!["tea".into()] },
        Record::Connected { via: SENDER, node: 0 },
        Record::Connected { via: READER, node: 0 },
        Record::Joined { via: READER, chat: 0, after: 0 },
    ];
    records.extend((1..=5).map(|n| attempt(SENDER, &message(n))));
    // One is tried twice, as a client does that had no answer.
    records.push(attempt(SENDER, &message(3)));
    records.extend((1..=5).map(|n| acknowledged(SENDER, &message(n))));
    records.push(acknowledged(SENDER, &message(3)));
    records.extend((1..=2).map(|n| delivered(READER, message(n))));
    records.push(Record::Disconnected { via: READER, why: "lost".into() });
    records.push(Record::Connected { via: again, node: 1 });
    records.push(Record::Joined { via: again, chat: 0, after: 2 });
    records.extend((3..=5).map(|n| delivered(again, message(n))));
    records.extend((1..=5).map(|n| listed(message(n))));
    records.push(Record::End { readers: vec![1], last_sequences: vec![5] });
    records
}

fn judged(records: Vec<Record>) -> Result<Verdict, NotJudged> {
    let mut judge = Judge::default();
    for record in records {
        // Through JSON: what is judged is what was written.
        let line = serde_json::to_string(&Line { t_us: 7, record }).unwrap();
        judge.take(serde_json::from_str(&line).unwrap())?;
    }
    judge.finish()
}

/// (lost, duplicated, reordered, holes, phantoms)
fn found(records: Vec<Record>) -> (u64, u64, u64, u64, u64) {
    let verdict = judged(records).unwrap();
    let Counts { lost, duplicated, reordered, holes, phantoms, .. } = verdict.counts;
    assert_eq!(verdict.counts.is_ok(), verdict.violations.is_empty(), "what is violated is described");
    (lost, duplicated, reordered, holes, phantoms)
}

/// The good history with every delivery and listing of a sequence changed.
fn with_stored(sequence: i64, change: impl Fn(&mut Message)) -> Vec<Record> {
    let mut records = good();
    for record in &mut records {
        if let Record::Delivered { message, .. } | Record::Listed { message, .. } = record
            && message.sequence == sequence
        {
            change(message);
        }
    }
    records
}

fn is_delivered(record: &Record, n: i64) -> bool {
    matches!(record, Record::Delivered { message, .. } if message.sequence == n)
}

fn is_listed(record: &Record, n: i64) -> bool {
    matches!(record, Record::Listed { message, .. } if message.sequence == n)
}

#[test]
fn a_good_history_is_found_good_and_counted() {
    let verdict = judged(good()).unwrap();
    let expected = Counts { sent: 5, acked: 5, delivered: 5, reconnects: 1, ..Counts::default() };
    assert_eq!(verdict.counts, expected);
    assert!(verdict.violations.is_empty());
}

#[test]
fn an_acknowledged_message_that_is_not_stored_is_lost() {
    let mut records = good();
    records.retain(|record| !is_listed(record, 5) && !is_delivered(record, 5));
    records.pop();
    records.push(Record::End { readers: vec![1], last_sequences: vec![4] });
    assert_eq!(found(records), (1, 0, 0, 0, 0));
}

#[test]
fn a_delivered_message_that_is_not_stored_is_lost() {
    let mut records = good();
    records.retain(|record| !is_listed(record, 5) && !matches!(record, Record::Acknowledged { sequence: 5, .. }));
    records.pop();
    records.push(Record::End { readers: vec![1], last_sequences: vec![4] });
    assert_eq!(found(records), (1, 0, 0, 0, 0));
}

#[test]
fn a_message_that_a_reader_never_got_is_lost() {
    let mut records = good();
    records.retain(|record| !is_delivered(record, 5));
    assert_eq!(found(records), (1, 0, 0, 0, 0));
}

#[test]
fn a_message_acknowledged_at_another_place_or_time_is_lost() {
    let mut records = good();
    for record in &mut records {
        if let Record::Acknowledged { sequence: 4, created_at_us, .. } = record {
            *created_at_us += 1;
        }
    }
    assert_eq!(found(records), (1, 0, 0, 0, 0));
}

#[test]
fn an_acknowledged_conflict_is_lost() {
    let mut records = good();
    let at = records.len() - 1;
    let Message { sequence, sender, id, created_at_us, .. } = message(1);
    records.insert(at, Record::Acknowledged { via: SENDER, chat: 0, sender, id, sequence, created_at_us, probe: true });
    assert_eq!(found(records), (1, 0, 0, 0, 0));
}

#[test]
fn a_server_that_has_less_than_a_reader_saw_has_lost_it() {
    let mut records = good();
    let (code, reason) = ("OutOfRange".into(), "SEQUENCE_AHEAD".into());
    records.insert(9, Record::Rejected { via: READER, chat: 0, id: None, code, reason, probe: false });
    assert_eq!(found(records), (1, 0, 0, 0, 0));
}

#[test]
fn a_delivery_that_comes_twice_is_a_duplicate() {
    let mut records = good();
    let at = records.iter().position(|record| is_delivered(record, 4)).unwrap();
    records.insert(at + 1, delivered(READER, message(4)));
    assert_eq!(found(records), (0, 1, 0, 0, 0));
}

#[test]
fn a_message_stored_at_two_places_is_a_duplicate() {
    let stored_twice = Message { sequence: 6, created_at_us: 1_006, ..message(5) };
    let mut records = good();
    records.pop();
    records.extend([delivered(READER, stored_twice.clone()), listed(stored_twice)]);
    records.push(Record::End { readers: vec![1], last_sequences: vec![6] });
    assert_eq!(found(records), (0, 1, 0, 0, 0));
}

#[test]
fn a_retry_that_is_acknowledged_elsewhere_is_a_duplicate() {
    let mut records = good();
    let last = records.iter().rposition(|record| matches!(record, Record::Acknowledged { sequence: 3, .. })).unwrap();
    if let Record::Acknowledged { sequence, .. } = &mut records[last] {
        *sequence = 5;
    }
    assert_eq!(found(records), (0, 1, 0, 0, 0));
}

#[test]
fn a_place_that_a_reader_passes_over_is_a_hole() {
    let mut records = good();
    records.retain(|record| !is_delivered(record, 4));
    assert_eq!(found(records), (1, 0, 0, 1, 0), "and the reader never got it");
}

#[test]
fn a_place_that_the_listing_passes_over_is_a_hole() {
    let mut records = good();
    records.retain(|record| !is_listed(record, 4));
    assert_eq!(found(records), (2, 0, 0, 1, 0), "acknowledged and delivered, and not there");
}

#[test]
fn a_listing_shorter_than_the_chat_has_a_hole() {
    let mut records = good();
    records.pop();
    records.push(Record::End { readers: vec![], last_sequences: vec![6] });
    assert_eq!(found(records), (0, 0, 0, 1, 0));
}

#[test]
fn two_messages_that_a_reader_sees_swapped_are_reordered() {
    let mut records = good();
    let (a, b) = (
        records.iter().position(|record| is_delivered(record, 4)).unwrap(),
        records.iter().position(|record| is_delivered(record, 5)).unwrap(),
    );
    records.swap(a, b);
    assert_eq!(found(records), (0, 0, 1, 1, 0), "a hole first, and then the late one");
}

#[test]
fn readers_that_disagree_on_a_place_see_another_order() {
    let mut records = good();
    for record in &mut records {
        match record {
            Record::Delivered { message: seen, .. } if seen.sequence == 4 => {
                *seen = Message { sequence: 4, created_at_us: 1_004, ..message(5) }
            }
            Record::Delivered { message: seen, .. } if seen.sequence == 5 => {
                *seen = Message { sequence: 5, created_at_us: 1_005, ..message(4) }
            }
            _ => {}
        }
    }
    assert_eq!(found(records), (0, 0, 2, 0, 0));
}

#[test]
fn a_senders_messages_stored_in_another_order_are_reordered() {
    let mut records = good();
    for record in &mut records {
        let swapped = |sequence: i64| if sequence == 1 { 2 } else { 1 };
        match record {
            Record::Acknowledged { sequence, created_at_us, .. } if *sequence < 3 => {
                *sequence = swapped(*sequence);
                *created_at_us = 1_000 + *sequence;
            }
            Record::Delivered { message: seen, .. } | Record::Listed { message: seen, .. } if seen.sequence < 3 => {
                let Message { sender, id, text, .. } = message(swapped(seen.sequence));
                *seen = Message { sender, id, text, ..message(seen.sequence) };
            }
            _ => {}
        }
    }
    assert_eq!(found(records.clone()), (0, 0, 1, 0, 0));
    // A refused send has no place in the order: its retry is a new send.
    let at = records.iter().position(|record| matches!(record, Record::Acknowledged { .. })).unwrap();
    let (code, reason, id) = ("Unavailable".into(), "NOT_STORED".into(), Some("m1".into()));
    records.insert(at, Record::Rejected { via: SENDER, chat: 0, id, code, reason, probe: false });
    assert_eq!(found(records), (0, 0, 0, 0, 0));
}

#[test]
fn a_time_that_goes_back_is_reordered() {
    let mut records = with_stored(3, |message| message.created_at_us = 5_000);
    for record in &mut records {
        if let Record::Acknowledged { sequence: 3, created_at_us, .. } = record {
            *created_at_us = 5_000;
        }
    }
    assert_eq!(found(records), (0, 0, 1, 0, 0));
}

#[test]
fn a_message_that_nobody_sent_is_a_phantom() {
    let phantom = Message { id: "nobody's".into(), ..message(6) };
    let mut records = good();
    records.pop();
    records.extend([delivered(READER, phantom.clone()), listed(phantom)]);
    records.push(Record::End { readers: vec![1], last_sequences: vec![6] });
    assert_eq!(found(records), (0, 0, 0, 0, 1));
    assert_eq!(found(with_stored(2, |message| message.text = "another text".into())), (0, 0, 0, 0, 1), "nor with this text");
}

#[test]
fn a_history_that_proves_nothing_is_not_judged() {
    let mut cut = good();
    cut.pop();
    assert_eq!(judged(cut).unwrap_err(), NotJudged::NotWhole);
    let mut silent = good();
    silent.retain(|record| !matches!(record, Record::Acknowledged { .. }));
    assert_eq!(judged(silent).unwrap_err(), NotJudged::Nothing);
    assert_eq!(judged(good().split_off(1)).unwrap_err(), NotJudged::Foreign);
}
