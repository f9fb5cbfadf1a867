//! Records kept aside: those that the upstream refuses for good, and those that damage has spoiled. They are counted as
//! quarantined already; here they are listed, sent once more, or dropped.

use bytes::Bytes;
use fieldgate_types::UnixMillis;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::age::{RunningTime, millis};
use crate::attempt::Attempt;
use crate::desk::Removal;
use crate::entry::Entry;
use crate::error::AsideError;
use crate::ledger::Ledger;
use crate::reading::{BAD_CRC, UNREADABLE};
use crate::record::{Aside, Header, Lane, RecordId};
use crate::room::{Room, Usage};
use crate::schema::{index, table};
use crate::sqlite::{is_full, signed, unsigned};
use crate::writer::Writer;

/// The bodies of this many are kept, the youngest.
const RECORDS: i64 = 1000;
/// One answer, in bodies.
const ANSWER_BYTES: usize = 1 << 20;

/// What to do with records that are kept aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Retry,
    Drop,
}

/// Copies a record that is about to leave its lane.
pub(crate) fn keep(
    conn: &Connection,
    removal: &Removal,
    reason: &str,
    running: &RunningTime,
) -> Result<(), rusqlite::Error> {
    let mut statement = conn.prepare_cached(&format!(
        "INSERT OR REPLACE INTO quarantine(id, lane, device, boot, seq, time, expires, reason, since, body)
         SELECT id, ?2, device, coalesce(boot, 0), coalesce(seq, 0), coalesce(time, 0), expires, ?3, ?4,
                coalesce(body, x'')
         FROM {} WHERE id = ?1",
        table(removal.lane)
    ))?;
    statement.execute(params![signed(removal.id), removal.lane as i64, reason, signed(running.wall().0)])?;
    Ok(())
}

/// Lets go of the oldest when there are too many.
pub(crate) fn bound(conn: &Connection) -> Result<(), rusqlite::Error> {
    let mut statement = conn.prepare_cached(
        "DELETE FROM quarantine WHERE id NOT IN (SELECT id FROM quarantine ORDER BY id DESC LIMIT ?1)",
    )?;
    statement.execute([RECORDS])?;
    Ok(())
}

/// What is quarantined is counted already: its bodies make room before any waiting record does. Bytes that went.
pub(crate) fn prune(conn: &Connection) -> Result<u64, rusqlite::Error> {
    let mut statement = conn.prepare_cached("SELECT total(length(body)) + 40 * count(*), max(id) FROM quarantine")?;
    let (bytes, newest): (f64, Option<i64>) = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let Some(newest) = newest else { return Ok(0) };
    let mut statement = conn.prepare_cached("DELETE FROM quarantine WHERE id <= ?1")?;
    statement.execute([newest])?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a sum of sizes, far below 2^53
    Ok(bytes as u64)
}

const COLUMNS: &str = "SELECT id, lane, device, boot, seq, time, expires, reason, since, body FROM quarantine";

/// The next ones after `after`: one at least, where there is one.
pub(crate) fn list(conn: &Connection, ledger: &Ledger, after: RecordId) -> Result<Vec<Aside>, rusqlite::Error> {
    let mut statement = conn.prepare_cached(&format!("{COLUMNS} WHERE id > ?1 ORDER BY id"))?;
    let mut rows = statement.query([signed(after.0)])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let Some((_, aside)) = read(row, ledger)? else { continue };
        bytes += aside.body.len();
        found.push(aside);
        if bytes >= ANSWER_BYTES {
            break;
        }
    }
    Ok(found)
}

/// With its row in the ledger; none for a row that belongs to nobody. A spoiled record may hold anything: what is of the wrong
/// kind reads as nothing.
fn read(row: &Row<'_>, ledger: &Ledger) -> Result<Option<(usize, Aside)>, rusqlite::Error> {
    let number = |column: usize| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_i64().ok().map(unsigned));
    let Some(at) = row.get_ref(2)?.as_i64().ok().and_then(index) else { return Ok(None) };
    let lane = number(1)?.and_then(|lane| Lane::ALL.into_iter().find(|known| *known as u64 == lane));
    let (Some(device), Some(lane)) = (ledger.device(at).cloned(), lane) else { return Ok(None) };
    let header = Header {
        device,
        lane,
        boot: number(3)?.unwrap_or_default(),
        seq: number(4)?.unwrap_or_default(),
        time: UnixMillis(number(5)?.unwrap_or_default()),
        expires: number(6)?.map(UnixMillis),
    };
    let reason: String = row.get(7)?;
    let aside = Aside {
        id: RecordId(unsigned(row.get(0)?)),
        header,
        spoiled: [BAD_CRC, UNREADABLE].contains(&reason.as_str()),
        reason,
        since: UnixMillis(unsigned(row.get(8)?)),
        body: Bytes::copy_from_slice(row.get_ref(9)?.as_bytes().unwrap_or_default()),
    };
    Ok(Some((at, aside)))
}

impl Writer {
    /// Does with the records what was decided, in one transaction; those that are not there are passed over. How many there
    /// were. `Err` outside: the disk failed, or the file is damaged.
    pub(crate) fn judge(
        &mut self,
        verdict: Verdict,
        ids: &[RecordId],
    ) -> Result<Result<usize, AsideError>, rusqlite::Error> {
        // Records that are sent again get ids above those of what is held: that must be on disk then.
        if !self.write_held()? {
            return Ok(Err(AsideError::Refused("the buffer is full".to_owned())));
        }
        let Some(conn) = self.conn.take() else { return Ok(Err(AsideError::Refused("the disk refuses".to_owned()))) };
        let mut attempt = Attempt::new(self.next_id, Vec::new());
        let done = match self.carry_out(&conn, &mut attempt, verdict, ids) {
            Ok(Ok(0)) => {
                crate::writer::rollback(&conn);
                Ok(Ok(0))
            }
            Ok(Ok(count)) => match self.commit(&conn) {
                Ok(()) => {
                    self.done(attempt);
                    self.publish(&conn).map(|()| Ok(count))
                }
                Err(error) => {
                    self.undecided = Some(attempt);
                    Err(error)
                }
            },
            Ok(Err(refused)) => {
                crate::writer::rollback(&conn);
                self.undo(attempt);
                Ok(Err(refused))
            }
            Err(error) => {
                crate::writer::rollback(&conn);
                self.undo(attempt);
                let full = is_full(&error);
                if full { Ok(Err(AsideError::Refused("there is no room".to_owned()))) } else { Err(error) }
            }
        };
        self.conn = Some(conn);
        done
    }

    fn carry_out(
        &mut self,
        conn: &Connection,
        attempt: &mut Attempt,
        verdict: Verdict,
        ids: &[RecordId],
    ) -> Result<Result<usize, AsideError>, rusqlite::Error> {
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut select = conn.prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?;
        let mut delete = conn.prepare_cached("DELETE FROM quarantine WHERE id = ?1")?;
        let now = self.running.now();
        let (mut count, mut bytes) = (0, 0);
        for id in ids {
            let ledger = &self.ledger;
            let found = select.query_row([signed(id.0)], |row| read(row, ledger)).optional()?.flatten();
            let Some((row, aside)) = found else { continue };
            delete.execute([signed(id.0)])?;
            count += 1;
            if verdict == Verdict::Drop {
                continue;
            }
            if aside.spoiled {
                return Ok(Err(AsideError::Spoiled { id: *id, reason: aside.reason }));
            }
            bytes += aside.body.len() + crate::record::RECORD_OVERHEAD;
            let entry = Entry {
                id: self.next_id,
                lane: aside.header.lane,
                row,
                device: aside.header.device,
                boot: aside.header.boot,
                seq: aside.header.seq,
                time: aside.header.time,
                expires: aside.header.expires,
                born: now,
                deadline: remaining(aside.header.expires, self.running.wall()).map(|left| now.saturating_add(left)),
                continues: false,
                body: aside.body,
            };
            self.ledger.send_again(row, entry.body.len(), &aside.reason);
            self.next_id += 1;
            attempt.entries.push(entry);
        }
        attempt.append(conn)?;
        if bytes > 0 && self.room.missing(Usage::measure(conn)?, Room::pages(bytes)) > 0 {
            return Ok(Err(AsideError::Refused("the buffer is full".to_owned())));
        }
        Attempt::write_ledger(conn, &self.ledger)?;
        crate::restoring::write_clock(conn, self.running.save(), &self.ledger)?;
        Ok(Ok(count))
    }
}

/// What is left of a life by the wall clock: how long the record lay aside was not counted.
fn remaining(expires: Option<UnixMillis>, now: UnixMillis) -> Option<u64> {
    expires.map(|expires| millis(expires.since(now)))
}
