//! What both parts of the client share: output that waits, packet ids in use, answers that have come. Pure.
//!
//! Ids are given out one after the other, so what is on the wire is a ring from the oldest id without an answer to
//! the newest. An upstream acknowledges in order (MQTT 5 section 4.6) and the ring moves; the answers of one that
//! doesn't wait in the ring for the oldest.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::BytesMut;
use tokio::sync::oneshot;

use super::{Gone, MOST_IN_FLIGHT};

/// What a packet id stands for.
#[derive(Debug)]
enum Place {
    /// A message of the publisher.
    Open,
    /// Its PUBACK has come, before that of an older one.
    Answered(u8),
    /// A message whose sender waits for it alone.
    Single(oneshot::Sender<u8>),
    /// A SUBSCRIBE with one filter.
    Subscribing(oneshot::Sender<u8>),
    /// Nothing any more: its sender was told.
    Told,
}

/// An answer to nothing that was asked, or the second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unasked;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Packets that the wire has not taken.
    pub output: BytesMut,
    /// Of the wire's task, while it waits for output.
    pub wire: Option<Waker>,
    /// Somebody waits for the output to be taken.
    pub crowded: bool,
    /// The DISCONNECT is in the output: nothing comes after it.
    pub leaving: bool,
    /// The wire is gone.
    pub over: bool,
    ring: VecDeque<Place>,
    /// Of the ring's first place, less one.
    before: u16,
    /// Reason codes of the publisher's messages, in the order of sending. As many as the ring may hold at most: one
    /// that is not taken from here counts as in flight at the publisher.
    answers: VecDeque<u8>,
}

/// The ids are 1 to 65,535; 0 is none.
fn after(id: u16, by: usize) -> u16 {
    let place = (usize::from(id) + 65_535 - 1 + by) % 65_535 + 1;
    u16::try_from(place).unwrap_or(1)
}

impl Book {
    /// An id for a message of the publisher, which is told by [`Book::answered`].
    pub fn publish(&mut self) -> Result<u16, Gone> {
        self.take(Place::Open)
    }

    /// An id for a message with an answer of its own.
    pub fn single(&mut self, answer: oneshot::Sender<u8>) -> Result<u16, Gone> {
        self.take(Place::Single(answer))
    }

    /// An id for a SUBSCRIBE.
    pub fn subscribe(&mut self, answer: oneshot::Sender<u8>) -> Result<u16, Gone> {
        self.take(Place::Subscribing(answer))
    }

    fn take(&mut self, place: Place) -> Result<u16, Gone> {
        // More room than `MOST_IN_FLIGHT` for what the publisher doesn't count.
        if self.over || self.leaving || self.ring.len() > usize::from(MOST_IN_FLIGHT) + 256 {
            return Err(Gone);
        }
        let id = after(self.before, self.ring.len() + 1);
        self.ring.push_back(place);
        Ok(id)
    }

    /// A PUBACK has come.
    pub fn puback(&mut self, packet_id: u16, code: u8) -> Result<(), Unasked> {
        let place = self.place(packet_id).ok_or(Unasked)?;
        match std::mem::replace(place, Place::Told) {
            Place::Open => *place = Place::Answered(code),
            // Whoever asked may have left since.
            Place::Single(answer) => drop(answer.send(code)),
            other @ (Place::Answered(_) | Place::Subscribing(_) | Place::Told) => {
                *place = other;
                return Err(Unasked);
            }
        }
        self.advance();
        Ok(())
    }

    /// A SUBACK has come.
    pub fn suback(&mut self, packet_id: u16, code: u8) -> Result<(), Unasked> {
        let place = self.place(packet_id).ok_or(Unasked)?;
        match std::mem::replace(place, Place::Told) {
            Place::Subscribing(answer) => drop(answer.send(code)),
            other @ (Place::Open | Place::Answered(_) | Place::Single(_) | Place::Told) => {
                *place = other;
                return Err(Unasked);
            }
        }
        self.advance();
        Ok(())
    }

    fn place(&mut self, packet_id: u16) -> Option<&mut Place> {
        let distance = (usize::from(packet_id) + 65_535 - usize::from(after(self.before, 1))) % 65_535;
        self.ring.get_mut(distance).filter(|_| packet_id != 0)
    }

    fn advance(&mut self) {
        while let Some(place) = self.ring.front() {
            match place {
                Place::Answered(code) => self.answers.push_back(*code),
                Place::Told => {}
                Place::Open | Place::Single(_) | Place::Subscribing(_) => return,
            }
            self.ring.pop_front();
            self.before = after(self.before, 1);
        }
    }

    /// Whether [`Book::answered`] has something.
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Takes up to `most` reason codes of the publisher's messages, in the order of sending.
    pub fn answered(&mut self, most: usize) -> std::collections::vec_deque::Drain<'_, u8> {
        let count = self.answers.len().min(most);
        self.answers.drain(..count)
    }

    /// The wire is gone: who waits for an answer of their own learns it.
    pub fn end(&mut self) {
        self.over = true;
        self.output = BytesMut::new();
        self.ring = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(book: &mut Book) -> Vec<u8> {
        book.answered(usize::MAX).collect()
    }

    #[test]
    fn answers_come_in_the_order_of_sending() {
        let mut book = Book::default();
        let ids: Vec<u16> = (0..4).map(|_| book.publish().unwrap()).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
        book.puback(2, 0x10).unwrap();
        book.puback(3, 0x97).unwrap();
        assert_eq!(codes(&mut book), [0_u8; 0], "the oldest is open");
        book.puback(1, 0).unwrap();
        assert_eq!(codes(&mut book), [0, 0x10, 0x97]);
        assert_eq!(book.publish(), Ok(5));
        book.puback(4, 0).unwrap();
        book.puback(5, 1).unwrap();
        assert_eq!(codes(&mut book), [0, 1]);
    }

    #[test]
    fn an_answer_to_nothing_and_a_second_one_are_told_apart_from_good_ones() {
        let mut book = Book::default();
        for id in [0, 1, 9, u16::MAX] {
            assert_eq!(book.puback(id, 0), Err(Unasked), "{id}");
        }
        let (send, mut granted) = oneshot::channel();
        assert_eq!((book.publish(), book.publish(), book.subscribe(send)), (Ok(1), Ok(2), Ok(3)));
        assert_eq!(book.puback(3, 0), Err(Unasked), "a PUBACK for a SUBSCRIBE");
        assert_eq!(book.suback(2, 0), Err(Unasked), "a SUBACK for a PUBLISH");
        book.puback(2, 0).unwrap();
        assert_eq!(book.puback(2, 0), Err(Unasked), "twice, in the ring");
        book.suback(3, 1).unwrap();
        assert_eq!(granted.try_recv(), Ok(1));
        assert_eq!(book.suback(3, 1), Err(Unasked), "twice");
        book.puback(1, 0).unwrap();
        assert_eq!(book.puback(1, 0), Err(Unasked), "twice, left behind");
        assert_eq!((book.puback(0, 0), book.puback(4, 0)), (Err(Unasked), Err(Unasked)));
        assert_eq!(codes(&mut book), [0, 0]);
    }

    #[test]
    fn ids_go_round_without_0_and_never_meet() {
        let mut book = Book::default();
        let mut open = VecDeque::new();
        for n in 0..200_000 {
            let id = book.publish().unwrap();
            assert!(id != 0 && (open.len() > 1000 || !open.contains(&id)), "{n}");
            open.push_back(id);
            if open.len() > 900 {
                book.puback(open.pop_front().unwrap(), 0).unwrap();
                assert_eq!(codes(&mut book), [0]);
            }
        }
    }

    #[test]
    fn a_full_ring_and_an_ended_book_give_no_ids() {
        let mut book = Book::default();
        let given = std::iter::from_fn(|| book.publish().ok()).take(70_000).count();
        assert!((usize::from(MOST_IN_FLIGHT)..65_535).contains(&given), "{given}");
        let mut book = Book::default();
        let (send, mut answer) = oneshot::channel();
        book.single(send).unwrap();
        book.end();
        assert!(matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert_eq!(book.publish(), Err(Gone));
    }
}
