//! The part of the client that is asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mqtt_protocol_core::mqtt::result_code::SubackReasonCode;
use tokio::sync::{Notify, oneshot};

use super::book::Book;
use super::{Ack, Gone, OUTPUT_HIGH, Receipt, Wanted, encode};
use crate::northbound::Protocol;
use crate::northbound::failure::Failure;
use crate::northbound::packet::Packet;

/// What both parts hold.
#[derive(Debug, Default)]
pub(super) struct Shared {
    book: Mutex<Book>,
    /// The publisher's messages have answers, or the wire is gone.
    pub landed: Notify,
    /// The output was taken, or the wire is gone.
    pub taken: Notify,
}

impl Shared {
    /// Held for one packet or one batch of them.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing under it panics.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the wire take what is in the output, if it waits for that.
    fn wake(&self) {
        let waker = {
            let mut book = self.book();
            if book.output.is_empty() { None } else { book.wire.take() }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// See the module above.
#[derive(Debug, Clone)]
pub(in crate::northbound) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) protocol: Protocol,
}

impl Client {
    /// Puts a PUBLISH at QoS 1 into the output; [`Packet::check`] has said that it fits. `false`: wait for
    /// [`Client::room`] before the next one. It goes out at the latest with [`Client::flush`].
    pub fn publish(&self, packet: &Packet<'_>) -> Result<bool, Gone> {
        let mut book = self.shared.book();
        let packet_id = book.publish()?;
        encode::publish(&mut book.output, self.protocol, packet, packet_id);
        Ok(book.output.len() < OUTPUT_HIGH)
    }

    /// What was published goes out now: once per batch, so that few wake-ups and few writes carry many messages.
    pub fn flush(&self) {
        self.shared.wake();
    }

    /// Until there is room in the output, or nobody takes it any more. Cancel-safe.
    pub async fn room(&self) {
        loop {
            let taken = self.shared.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            {
                let mut book = self.shared.book();
                if book.over || book.output.len() < OUTPUT_HIGH {
                    return;
                }
                book.crowded = true;
            }
            self.flush();
            taken.await;
        }
    }

    /// Answers to messages of [`Client::publish`], at least one, at most `most`, in the order of sending. `None`: the wire is
    /// gone, and no more come. Cancel-safe.
    pub async fn answers(&self, most: usize) -> Option<Vec<Ack>> {
        loop {
            {
                let mut book = self.shared.book();
                if book.has_answers() {
                    return Some(book.answered(most).map(ack).collect());
                }
                if book.over {
                    return None;
                }
            }
            self.shared.landed.notified().await;
        }
    }

    /// PUBLISH at QoS 1, and what became of it.
    pub async fn deliver(&self, packet: &Packet<'_>) -> Ack {
        let (send, answer) = oneshot::channel();
        {
            let mut book = self.shared.book();
            let Ok(packet_id) = book.single(send) else { return Ack::Lost };
            encode::publish(&mut book.output, self.protocol, packet, packet_id);
        }
        self.flush();
        answer.await.map_or(Ack::Lost, ack)
    }

    /// SUBSCRIBE; resolves with the SUBACK.
    pub async fn subscribe(&self, wanted: Wanted) -> Result<(), Failure> {
        let gone = || Failure::Lost("the connection is over".to_owned());
        let (send, answer) = oneshot::channel();
        {
            let mut book = self.shared.book();
            let packet_id = book.subscribe(send).map_err(|Gone| gone())?;
            encode::subscribe(&mut book.output, self.protocol, &wanted, packet_id);
        }
        self.flush();
        let reason = match answer.await.map_err(|_| gone())? {
            1 | 2 => return Ok(()),
            0 => "only QoS 0 is granted, messages would be lost".to_owned(),
            code => match (self.protocol, SubackReasonCode::try_from(code)) {
                (Protocol::V5, Ok(reason)) => format!("{reason:?} (0x{code:02x})"),
                _ => format!("failure (0x{code:02x})"),
            },
        };
        Err(Failure::Subscribe { filter: wanted.filter, reason })
    }

    /// PUBACK or PUBREC. Waits while the output is full: an upstream that sends and doesn't read costs no memory.
    pub async fn acknowledge(&self, receipt: Receipt) -> Result<(), Gone> {
        self.room().await;
        {
            let mut book = self.shared.book();
            if book.over || book.leaving {
                return Err(Gone);
            }
            encode::receipt(&mut book.output, receipt);
        }
        self.flush();
        Ok(())
    }

    /// DISCONNECT, after everything that is in the output; the wire ends after it.
    pub fn disconnect(&self) -> Result<(), Gone> {
        {
            let mut book = self.shared.book();
            if book.over || book.leaving {
                return Err(Gone);
            }
            book.output.extend_from_slice(&encode::DISCONNECT);
            book.leaving = true;
        }
        self.flush();
        Ok(())
    }
}

/// What a PUBACK's reason means for the message.
fn ack(code: u8) -> Ack {
    match code {
        0x00 | 0x10 => Ack::Accepted,
        0x83 => Ack::Busy("implementation specific error (0x83)"),
        0x91 => Ack::Busy("packet identifier in use (0x91)"),
        0x97 => Ack::Busy("quota exceeded (0x97)"),
        0x87 => Ack::Poison("upstream: not authorized (0x87)"),
        0x90 => Ack::Poison("upstream: topic name invalid (0x90)"),
        0x95 => Ack::TooLarge("upstream: packet too large (0x95)"),
        0x99 => Ack::Poison("upstream: payload format invalid (0x99)"),
        // The codec lets no others through but 0x80.
        _ => Ack::Busy("unspecified error (0x80)"),
    }
}
