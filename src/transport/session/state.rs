//! What a stream has of a chat: its cursor.

/// Where a stream stands in a chat. The cursor makes delivery right whatever comes: the next in order is delivered, an old one
/// dropped, and behind a hole the stream reads from the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    delivered: i64,
    /// Messages are missing: what the channel brings doesn't count until they are read.
    behind: bool,
    /// The chat has messages up to here at least.
    known: i64,
    /// Where delivery ends: what lies behind it isn't delivered, even while the stream's other chats are still on their way.
    until: Option<i64>,
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Deliver,
    Drop,
}

impl Cursor {
    /// A stream that has everything up to `delivered`, in a chat that stands at `last_sequence`.
    pub fn new(delivered: i64, last_sequence: i64) -> Self {
        Self { delivered, behind: delivered < last_sequence, known: last_sequence, until: None }
    }

    pub fn delivered(self) -> i64 {
        self.delivered
    }

    pub fn is_behind(self) -> bool {
        self.behind
    }

    /// A message came through the channel.
    pub fn receive(&mut self, sequence: i64) -> Verdict {
        if self.behind || self.is_done() || sequence <= self.delivered {
            return Verdict::Drop;
        }
        if sequence == self.delivered + 1 {
            self.delivered = sequence;
            return Verdict::Deliver;
        }
        self.behind = true;
        Verdict::Drop
    }

    /// The channel has dropped messages.
    pub fn lagged(&mut self) {
        self.behind = !self.is_done();
    }

    /// A message was read from the repository. `None`: the repository itself has a hole.
    pub fn read(&mut self, sequence: i64) -> Option<Verdict> {
        if self.is_done() || sequence <= self.delivered {
            return Some(Verdict::Drop);
        }
        (sequence == self.delivered + 1).then(|| {
            self.delivered = sequence;
            Verdict::Deliver
        })
    }

    /// A page was read to its end; the chat stood at `last_sequence`.
    pub fn page_done(&mut self, last_sequence: i64) {
        self.known = self.known.max(last_sequence);
        self.behind = self.delivered < self.until.map_or(last_sequence, |until| until.min(last_sequence));
    }

    /// Nothing is missing but what lies behind `delivered`, in a chat where `head` was the last that went through: the channel brings what comes
    /// behind that.
    pub fn caught_up(&mut self, head: i64) {
        self.behind = self.delivered < self.until.unwrap_or(head.max(self.known));
    }

    /// Deliver up to this and no further.
    pub fn end_at(&mut self, last_sequence: i64) {
        self.until = Some(last_sequence);
        self.behind = self.delivered < last_sequence;
    }

    /// Whether everything up to the end was delivered.
    pub fn is_done(self) -> bool {
        self.until.is_some_and(|until| self.delivered >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn next_is_delivered_old_is_dropped_and_a_hole_is_read() {
        let mut cursor = Cursor::new(2, 2);
        assert_eq!(cursor.receive(2), Verdict::Drop);
        assert_eq!(cursor.receive(3), Verdict::Deliver);
        assert_eq!(cursor.receive(5), Verdict::Drop);
        assert!(cursor.is_behind());
        assert_eq!(cursor.receive(6), Verdict::Drop, "not before the hole is read");
        assert_eq!((cursor.read(4), cursor.read(5)), (Some(Verdict::Deliver), Some(Verdict::Deliver)));
        cursor.page_done(5);
        assert_eq!(cursor.receive(6), Verdict::Deliver);
    }

    #[test]
    fn what_the_channel_will_not_bring_is_read() {
        let mut cursor = Cursor::new(5, 10);
        assert_eq!([6, 7, 8].map(|sequence| cursor.read(sequence)), [Some(Verdict::Deliver); 3]);
        cursor.caught_up(8);
        assert!(cursor.is_behind(), "the chat had 10 when it was joined");
        assert_eq!([9, 10].map(|sequence| cursor.read(sequence)), [Some(Verdict::Deliver); 2]);
        cursor.page_done(10);
        cursor.lagged();
        cursor.caught_up(10);
        assert!(!cursor.is_behind(), "what it lagged for it has");
    }

    #[test]
    fn a_hole_in_the_repository_is_never_passed_over() {
        let mut cursor = Cursor::new(0, 3);
        assert_eq!(cursor.read(2), None);
    }

    #[test]
    fn behind_its_end_nothing_is_delivered_from_the_channel_or_the_repository() {
        let mut cursor = Cursor::new(2, 2);
        cursor.end_at(4);
        assert!(cursor.is_behind(), "what is missing up to the end is read");
        let read: Vec<_> = (3..=6).map(|sequence| cursor.read(sequence)).collect();
        assert_eq!(read, [Verdict::Deliver, Verdict::Deliver, Verdict::Drop, Verdict::Drop].map(Some));
        cursor.page_done(6);
        assert!(cursor.is_done() && !cursor.is_behind(), "and no more than that");
        assert_eq!((cursor.receive(5), cursor.receive(7)), (Verdict::Drop, Verdict::Drop));
        cursor.lagged();
        assert_eq!((cursor.is_behind(), cursor.delivered()), (false, 4));
    }

    #[test]
    fn a_hole_before_the_end_is_read_whatever_lies_behind_the_end() {
        let mut cursor = Cursor::new(2, 2);
        cursor.end_at(4);
        // A page that was asked for before the end was known, of when there was nothing more.
        cursor.page_done(2);
        assert_eq!(cursor.receive(7), Verdict::Drop);
        assert!(cursor.is_behind());
    }

    proptest! {
        /// Whatever fan-out drops, repeats or swaps, a stream that reads when it is behind gets 1, 2, 3, … each once.
        #[test]
        fn a_stream_gets_each_message_once_and_in_order(
            start in 0_i64..5, events in prop::collection::vec((0_u8..6, 1_i64..30), 0..200)
        ) {
            let mut stored = start;
            let mut cursor = Cursor::new(start, stored);
            let mut got = Vec::new();
            let read = |cursor: &mut Cursor, got: &mut Vec<i64>, stored: i64, page: i64| {
                for sequence in cursor.delivered() + 1..=stored.min(cursor.delivered() + page) {
                    prop_assert_eq!(cursor.read(sequence), Some(Verdict::Deliver));
                    got.push(sequence);
                }
                cursor.page_done(stored);
                Ok(())
            };
            for (kind, number) in events {
                match kind {
                    0 | 1 => { stored += 1; if cursor.receive(stored) == Verdict::Deliver { got.push(stored); } }
                    2 => stored += 1,
                    3 => if number <= stored && cursor.receive(number) == Verdict::Deliver { got.push(number); },
                    4 => cursor.lagged(),
                    _ => if cursor.is_behind() { read(&mut cursor, &mut got, stored, number)?; },
                }
            }
            let end = stored;
            cursor.end_at(end);
            for _ in 0..3 {
                stored += 1;
                if cursor.receive(stored) == Verdict::Deliver { got.push(stored); }
            }
            while cursor.is_behind() {
                for sequence in cursor.delivered() + 1..=stored.min(cursor.delivered() + 7) {
                    if cursor.read(sequence) == Some(Verdict::Deliver) { got.push(sequence); }
                }
                cursor.page_done(stored);
            }
            prop_assert!(cursor.is_done());
            prop_assert_eq!(got, (start + 1..=end).collect::<Vec<_>>());
        }
    }
}
