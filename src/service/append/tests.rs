use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::broker::AccessEnd;
use crate::model::{Sender, SystemRole, UserId};
use crate::repository::{Result as StoreResult, StoreError};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// It stores and then answers nothing.
    AnswerLost,
    /// The chats can't be locked.
    Busy,
    /// No connection can be had.
    Unreachable,
    /// It says before the commit that it can't.
    Undone,
}

/// A store whose first calls end as they are told, that refuses poison, and notes the batches that it got.
#[derive(Default)]
struct ScriptedLane {
    script: VecDeque<Call>,
    stored: Vec<String>,
    calls: Arc<Mutex<Vec<Vec<String>>>>,
}

#[async_trait]
impl AppendLane for ScriptedLane {
    async fn append(&mut self, batch: &[NewMessage]) -> StoreResult<Vec<AppendOutcome>> {
        self.calls.lock().unwrap().push(batch.iter().map(|m| m.text.clone()).collect());
        if batch.iter().any(|m| m.text == "poison") {
            return Err(StoreError::Refused(sqlx::Error::RowNotFound));
        }
        let call = self.script.pop_front();
        match call {
            Some(Call::Unreachable) => return Err(StoreError::Unreachable(sqlx::Error::PoolTimedOut)),
            Some(Call::Undone) => return Err(StoreError::Undone(sqlx::Error::PoolTimedOut)),
            Some(Call::Busy) => return Ok(batch.iter().map(|_| AppendOutcome::Busy).collect()),
            Some(Call::AnswerLost) | None => {}
        }
        let outcomes = batch
            .iter()
            .map(|message| match self.stored.iter().position(|id| *id == message.client_message_id) {
                Some(at) => AppendOutcome::Duplicate { sequence: at as i64 + 1, created_at: Timestamp::from_micros(1) },
                None => {
                    self.stored.push(message.client_message_id.clone());
                    AppendOutcome::Stored { sequence: self.stored.len() as i64, created_at: Timestamp::from_micros(1) }
                }
            })
            .collect();
        match call {
            Some(Call::AnswerLost) => Err(StoreError::TimedOut(std::time::Duration::ZERO)),
            Some(Call::Busy | Call::Unreachable | Call::Undone) | None => Ok(outcomes),
        }
    }
}

#[derive(Default)]
struct RecordingBroker(Mutex<Vec<i64>>);

#[async_trait]
impl Broker for RecordingBroker {
    async fn publish(&self, messages: Vec<Arc<Delivery>>) {
        self.0.lock().unwrap().extend(messages.iter().map(|d| d.message.sequence));
    }
    async fn announce(&self, _: AccessEnd) {}
}

fn scripted(script: &[Call]) -> ScriptedLane {
    ScriptedLane { script: script.iter().copied().collect(), ..ScriptedLane::default() }
}

fn message(chat_id: ChatId, text: &str) -> NewMessage {
    let sender = Sender { user_id: UserId::new("alice"), role: SystemRole::User };
    NewMessage { chat_id, sender, client_message_id: format!("id of {text}"), text: text.into() }
}

/// Sends the texts in one go and returns their results and what was published.
async fn send_all(lane: ScriptedLane, texts: &[&str]) -> (Vec<SendResult>, Vec<i64>) {
    let recording = Arc::new(RecordingBroker::default());
    let broker: Arc<dyn Broker> = recording.clone();
    let (appender, tasks) = Appender::start(vec![Box::new(lane)], &broker);
    let chat_id = ChatId::generate();
    let mut waiting = Vec::new();
    for text in texts {
        let (reply, outcome) = Reply::call();
        appender.submit(message(chat_id, text), reply);
        waiting.push(outcome);
    }
    let mut results = Vec::new();
    for outcome in waiting {
        results.push(outcome.await.unwrap());
    }
    drop(appender);
    for task in tasks {
        task.await.unwrap();
    }
    let published = recording.0.lock().unwrap().clone();
    (results, published)
}

fn sequences(results: &[SendResult]) -> Vec<Option<i64>> {
    results.iter().map(|result| result.as_ref().ok().map(|placed| placed.sequence)).collect()
}

#[tokio::test]
async fn what_waits_together_is_one_batch_and_keeps_its_order() {
    let lane = ScriptedLane::default();
    let calls = Arc::clone(&lane.calls);
    let (results, published) = send_all(lane, &["a", "b", "c"]).await;
    assert_eq!(sequences(&results), [Some(1), Some(2), Some(3)]);
    assert_eq!(published, [1, 2, 3]);
    assert_eq!(calls.lock().unwrap().as_slice(), [vec!["a", "b", "c"]]);
}

#[tokio::test]
async fn a_batch_is_a_part_for_each_lane_that_appends_and_one_that_is_on_its_way() {
    let put = |queue: &Queue, chat_id: &dyn Fn() -> ChatId| {
        for number in 0..90 {
            let job = Job { message: message(chat_id(), &number.to_string()), reply: Reply::call().0, origin: None };
            assert!(queue.put(job).is_ok());
        }
    };
    let one = ChatId::generate();
    // Nobody else can take what is of one chat.
    let queue = Queue::new(2);
    put(&queue, &|| one);
    let batch = queue.take(0).await.unwrap();
    assert_eq!((batch.jobs.len(), queue.waiting()), (45, 45));
    drop(batch);

    let queue = Queue::new(2);
    put(&queue, &|| one);
    let first = queue.take(0).await.unwrap();
    put(&queue, &ChatId::generate);
    let second = queue.take(1).await.unwrap();
    assert_eq!(second.jobs.len(), 60, "a third of 180");
    assert!(second.jobs.iter().all(|job| job.message.chat_id != one));
    drop((first, second));
}

#[tokio::test]
async fn a_poison_message_fails_alone() {
    let (results, published) = send_all(ScriptedLane::default(), &["a", "b", "poison", "c", "d"]).await;
    assert_eq!(sequences(&results), [Some(1), Some(2), None, Some(3), Some(4)]);
    assert_eq!(results[2], Err(Error::Internal));
    assert_eq!(published, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_before_anyone_is_answered() {
    let (results, published) = send_all(scripted(&[Call::AnswerLost]), &["a", "b"]).await;
    assert_eq!(sequences(&results), [Some(1), Some(2)]);
    assert_eq!(published, [1, 2], "stored the first time, published the second");
}

#[tokio::test]
async fn behind_a_lost_answer_the_broker_still_gets_the_order_of_sequences_and_each_once() {
    let stored = vec!["id of old".to_owned()];
    let lane = ScriptedLane { stored, ..scripted(&[Call::AnswerLost]) };
    let (results, published) = send_all(lane, &["new", "old", "new"]).await;
    assert_eq!(sequences(&results), [Some(2), Some(1), Some(2)]);
    assert_eq!(published, [1, 2]);
}

#[tokio::test]
async fn an_answer_lost_twice_is_unavailable_for_everyone_in_the_batch() {
    let (results, published) = send_all(scripted(&[Call::AnswerLost, Call::AnswerLost]), &["a", "b"]).await;
    assert_eq!(results, [Err(Error::Unavailable), Err(Error::Unavailable)]);
    assert!(published.is_empty());
}

#[tokio::test]
async fn behind_a_lost_answer_nothing_says_that_a_message_is_not_stored() {
    for then in [&[Call::Busy][..], &[Call::Unreachable], &[Call::Undone, Call::Undone], &[Call::Undone, Call::AnswerLost]] {
        let (results, published) = send_all(scripted(&[&[Call::AnswerLost][..], then].concat()), &["a", "b"]).await;
        assert_eq!(results, [Err(Error::Unavailable), Err(Error::Unavailable)], "{then:?}");
        assert!(published.is_empty());
    }
}

#[tokio::test]
async fn an_append_that_was_undone_is_tried_again_and_a_lost_answer_behind_it_is_asked_for_again() {
    for script in [&[Call::Undone][..], &[Call::Undone, Call::AnswerLost], &[Call::AnswerLost, Call::Undone]] {
        let (results, published) = send_all(scripted(script), &["a", "b"]).await;
        assert_eq!(sequences(&results), [Some(1), Some(2)], "{script:?}");
        assert_eq!(published, [1, 2], "{script:?}: each once");
    }
}

#[tokio::test]
async fn what_was_surely_not_stored_is_told_so() {
    for script in [&[Call::Busy][..], &[Call::Unreachable], &[Call::Undone, Call::Undone], &[Call::Undone, Call::Unreachable]] {
        let lane = scripted(script);
        let calls = Arc::clone(&lane.calls);
        let (results, published) = send_all(lane, &["a", "b"]).await;
        assert_eq!(results, [Err(Error::NotStored), Err(Error::NotStored)], "{script:?}");
        assert!(published.is_empty() && calls.lock().unwrap().len() == script.len());
    }
}

#[tokio::test]
async fn of_a_batch_that_was_split_what_was_never_tried_is_not_stored() {
    // The batch is refused for its poison; of its first half no answer comes, twice.
    let lane = scripted(&[Call::AnswerLost, Call::AnswerLost]);
    let (results, _) = send_all(lane, &["a", "b", "c", "poison"]).await;
    assert_eq!(results, [Error::Unavailable, Error::Unavailable, Error::NotStored, Error::NotStored].map(Err));
}

#[tokio::test]
async fn a_retry_is_not_delivered_again() {
    let (results, published) = send_all(ScriptedLane::default(), &["a", "a"]).await;
    assert_eq!(sequences(&results), [Some(1), Some(1)]);
    assert_eq!(published, [1]);
}

#[tokio::test]
async fn a_full_queue_refuses_instead_of_growing() {
    let broker: Arc<dyn Broker> = Arc::new(RecordingBroker::default());
    let (appender, _tasks) = Appender::start(vec![Box::new(ScriptedLane::default())], &broker);
    let chat_id = ChatId::generate();
    let mut waiting = Vec::new();
    // The lane's task can't run before this one waits, so what doesn't fit into the queue is refused.
    for number in 0..=QUEUE_MESSAGES_MAX {
        let (reply, outcome) = Reply::call();
        appender.submit(message(chat_id, &number.to_string()), reply);
        waiting.push(outcome);
    }
    assert_eq!(waiting.pop().unwrap().await.unwrap(), Err(Error::Overloaded));
    assert!(waiting.pop().unwrap().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_call_that_gave_up_while_it_waited_takes_no_place() {
    let lane = ScriptedLane::default();
    let calls = Arc::clone(&lane.calls);
    let broker: Arc<dyn Broker> = Arc::new(RecordingBroker::default());
    let (appender, _tasks) = Appender::start(vec![Box::new(lane)], &broker);
    let chat_id = ChatId::generate();
    let (gone, given_up) = Reply::call();
    drop(given_up);
    appender.submit(message(chat_id, "gone"), gone);
    let (reply, outcome) = Reply::call();
    appender.submit(message(chat_id, "waits"), reply);
    assert_eq!(outcome.await.unwrap().unwrap().sequence, 1);
    assert_eq!(*calls.lock().unwrap(), [["waits"]]);
}

/// Stands still with whatever has the stuck chat in it; notes the texts of everything else.
struct StuckLane {
    stuck: ChatId,
    stored: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl AppendLane for StuckLane {
    async fn append(&mut self, batch: &[NewMessage]) -> StoreResult<Vec<AppendOutcome>> {
        if batch.iter().any(|message| message.chat_id == self.stuck) {
            std::future::pending::<()>().await;
        }
        self.stored.lock().unwrap().extend(batch.iter().map(|message| message.text.clone()));
        Ok(batch.iter().map(|_| AppendOutcome::Stored { sequence: 1, created_at: Timestamp::from_micros(1) }).collect())
    }
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_is_locked_holds_up_no_other_for_long() {
    let (stuck, broker): (_, Arc<dyn Broker>) = (ChatId::generate(), Arc::new(RecordingBroker::default()));
    let stored = Arc::default();
    let lanes = (0..2).map(|_| Box::new(StuckLane { stuck, stored: Arc::clone(&stored) }) as Box<dyn AppendLane>).collect();
    let (appender, _tasks) = Appender::start(lanes, &broker);
    // What waits for the locked chat stays behind it, however much it is; what others send is stored.
    for round in 0..4 {
        let mut waiting = Vec::new();
        for number in 0..30 {
            let chat_id = if number % 3 == 0 { stuck } else { ChatId::generate() };
            let (reply, outcome) = Reply::call();
            appender.submit(message(chat_id, &format!("{round}-{number}")), reply);
            if chat_id == stuck {
                std::mem::forget(outcome)
            } else {
                waiting.push(outcome)
            }
            if number % 10 == 9 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        if round == 0 {
            // Those that the first lane had taken along are stuck with it.
            continue;
        }
        let began = tokio::time::Instant::now();
        for outcome in waiting {
            outcome.await.unwrap().unwrap();
        }
        assert!(began.elapsed() < std::time::Duration::from_millis(100), "{:?}", began.elapsed());
    }
}

struct PanickingLane;

#[async_trait]
impl AppendLane for PanickingLane {
    async fn append(&mut self, _: &[NewMessage]) -> StoreResult<Vec<AppendOutcome>> {
        panic!("as it should");
    }
}

#[tokio::test]
async fn a_lane_that_panics_leaves_nobody_waiting() {
    let broker: Arc<dyn Broker> = Arc::new(RecordingBroker::default());
    let (appender, tasks) = Appender::start(vec![Box::new(PanickingLane)], &broker);
    let chat_id = ChatId::generate();
    let outcomes: Vec<_> = (0..20)
        .map(|number| {
            let (reply, outcome) = Reply::call();
            appender.submit(message(chat_id, &number.to_string()), reply);
            outcome
        })
        .collect();
    for outcome in outcomes {
        assert_eq!(outcome.await.unwrap(), Err(Error::Unavailable));
    }
    for task in tasks {
        assert!(task.await.is_err(), "and it is seen to be gone");
    }
    let (reply, outcome) = Reply::call();
    appender.submit(message(chat_id, "later"), reply);
    assert_eq!(outcome.await.unwrap(), Err(Error::GoingAway));
}
