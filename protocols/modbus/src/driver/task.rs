//! The task of a link: one request at a time, each unit in its turn; commands in between; reconnects.
//!
//! **When a request fails**, TCP or not, requests and answers may no longer match, so the connection goes. A new one is
//! made at once (a serial line falls silent first), so a dead unit costs the others its time-outs and nothing else, and
//! those become rare (see `unit`).
//! After three failures without any answer between them the link rests before it connects again; it counts as down when
//! it can't be connected, or when no unit at all has answered since the last good answer. Then every unit is offline,
//! and each round of the back-off asks every unit once.

use std::time::Duration;

use fieldgate_protocol::{Command, LinkState, Outcome, Quality, Status, Tasks};
use fieldgate_types::Backoff;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::overload::{News, Overload};
use super::unit::{Failure, Job, PATIENCE, Unit};
use crate::config::ModbusConfig;
use crate::exception::{self, Verdict};
use crate::link::{Link, LinkError};

/// Why the task has woken.
enum Woke {
    /// Time to connect.
    Connect,
    /// A request of this unit is due.
    Poll(usize, Job),
    /// Somebody wants something.
    Command(Command),
    /// The idle connection is gone.
    Lost(LinkError),
    /// Something may be due.
    Time,
    /// No more commands will come.
    NoCommands,
}

pub(super) struct Task {
    pub(super) units: Vec<Unit>,
    pub(super) link: Link,
    pub(super) tasks: Tasks,
    commands_end: bool,
    /// A command was served last: a poll's turn.
    served: bool,
    /// The unit whose turn is next.
    turn: usize,
    /// Failures since the last good answer.
    strikes: u32,
    /// Units asked in this round of a link that is down.
    round: usize,
    /// No unit answers.
    pub(super) down: bool,
    backoff: Backoff,
    reconnect_at: Instant,
    overload: Overload,
    /// How long one step may take at most: a command may ask for many points.
    longest: Duration,
}

impl Task {
    pub(super) fn new(config: &ModbusConfig, tasks: Tasks) -> Self {
        let now = Instant::now();
        let unit = |device: &crate::config::DeviceConfig| Unit::new(device.clone(), config.limits, now);
        Self {
            units: config.devices.iter().map(unit).collect(),
            link: Link::new(config.link.clone()),
            tasks,
            commands_end: false,
            served: false,
            turn: 0,
            strikes: 0,
            round: 0,
            down: false,
            backoff: Backoff::field_link(),
            reconnect_at: now,
            overload: Overload::new(now),
            longest: config.link.timeout.saturating_mul(64),
        }
    }

    /// Runs until the gateway stops, or stops listening. Whatever it does then is dropped, and the connection with it.
    pub(super) async fn run(mut self) {
        let stop = self.tasks.stop.clone();
        self.tasks.state.send_modify(|info| info.state = LinkState::Connecting);
        stop.run_until_cancelled(self.work()).await;
    }

    async fn work(&mut self) {
        loop {
            let woke = self.next().await;
            // Each step of what follows has a time limit of its own.
            self.tasks.pulse.rest(self.longest);
            self.apply(woke).await;
            if !self.hand_up().await {
                return;
            }
        }
    }

    async fn next(&mut self) -> Woke {
        let now = Instant::now();
        if !self.link.is_connected() {
            if now >= self.reconnect_at {
                return Woke::Connect;
            }
            self.tasks.pulse.rest(self.reconnect_at - now);
            return tokio::select! {
                command = receive(&mut self.tasks.commands, self.commands_end) => command,
                () = sleep_until(self.reconnect_at) => Woke::Connect,
            };
        }
        let clock = self.tasks.clock.now();
        let overruns: u64 = self.units.iter_mut().map(|unit| unit.tick(now, clock)).sum();
        if overruns > 0 {
            self.tasks.state.send_modify(|info| info.overruns += overruns);
        }
        match self.overload.note(overruns, now) {
            Some(News::Overloaded) => {
                tracing::warn!(link = %self.link.endpoint(), "polls begin late: the link can't keep up with its intervals, `fieldgate plan` shows what it is asked");
            }
            Some(News::KeepsUp) => {
                tracing::info!(link = %self.link.endpoint(), "the link keeps up with its intervals again");
            }
            None => {}
        }
        if self.units.iter().any(|unit| !unit.updates.is_empty()) {
            return Woke::Time;
        }
        // In turns, so that a flood of commands doesn't stop the polls.
        if !self.served
            && let Ok(command) = self.tasks.commands.try_recv()
        {
            self.served = true;
            return Woke::Command(command);
        }
        self.served = false;
        if let Some((unit, job)) = self.next_job(now) {
            return Woke::Poll(unit, job);
        }
        let wake_at = self.units.iter().map(Unit::wake_at).min().unwrap_or(now + Duration::from_hours(1));
        self.tasks.pulse.rest(wake_at.saturating_duration_since(now));
        tokio::select! {
            command = receive(&mut self.tasks.commands, self.commands_end) => command,
            error = self.link.lost() => Woke::Lost(error),
            () = sleep_until(wake_at) => Woke::Time,
        }
    }

    /// One request per unit and turn: a unit with many blocks doesn't hold up one with few.
    fn next_job(&mut self, now: Instant) -> Option<(usize, Job)> {
        let units = self.units.len();
        for step in 0..units {
            let number = (self.turn + step) % units;
            if let Some(job) = self.units.get_mut(number).and_then(|unit| unit.next_job(now)) {
                self.turn = (number + 1) % units;
                return Some((number, job));
            }
        }
        None
    }

    async fn apply(&mut self, woke: Woke) {
        match woke {
            Woke::Connect => self.connect().await,
            Woke::Poll(unit, job) => self.poll(unit, job).await,
            Woke::Command(command) => self.serve(command).await,
            Woke::Lost(error) => self.link_failed(&error),
            Woke::Time => {}
            Woke::NoCommands => self.commands_end = true,
        }
    }

    /// Waits for room upstream. False when nobody listens any more.
    async fn hand_up(&mut self) -> bool {
        let _waiting = self.tasks.pulse.excuse();
        for unit in &mut self.units {
            for update in unit.updates.drain(..) {
                if !self.tasks.uplink.send(update).await {
                    return false;
                }
            }
        }
        true
    }

    async fn connect(&mut self) {
        let result = if self.down {
            let Self { link, tasks, commands_end, .. } = self;
            let connect = link.connect();
            tokio::pin!(connect);
            loop {
                tokio::select! {
                    biased;
                    result = &mut connect => break result,
                    woke = receive(&mut tasks.commands, *commands_end) => match woke {
                        Woke::Command(command) => answer(command, Outcome::not(Status::Failed, why_down(tasks))),
                        _ => *commands_end = true,
                    },
                }
            }
        } else {
            self.link.connect().await
        };
        match result {
            Ok(opened) => {
                self.tasks.state.send_modify(|info| info.connects += u64::from(opened));
                if self.round == 0 {
                    let now = Instant::now();
                    self.units.iter_mut().filter(|_| self.down).for_each(|unit| unit.probe_now(now));
                }
            }
            Err(error) => self.link_failed(&error),
        }
    }

    async fn poll(&mut self, number: usize, job: Job) {
        let Some(id) = self.units.get(number).map(Unit::id) else { return };
        let began = Instant::now();
        let result = self.link.read(id, job.read.table, job.read.start, job.read.count).await;
        let now = Instant::now();
        let clock = self.tasks.clock.now();
        let others_answer = self.units.iter().enumerate().any(|(other, unit)| other != number && unit.is_online());
        // The silence that a line needs after a request without an answer is lost to the others too.
        let took = now - began + self.link.rest(now);
        let failure = |reason, quality| Failure { reason, quality, took, others_answer };
        let Some(unit) = self.units.get_mut(number) else { return };
        match result {
            Ok(Ok(data)) => {
                unit.answered(job, &data, now, clock);
                self.tasks.state.send_modify(|info| info.response += now - began);
                self.link_good(true);
            }
            Ok(Err(code)) => {
                if exception::verdict(code) == Verdict::Away {
                    unit.failed(job, failure(exception::describe(code), exception::quality(code)), now, clock);
                } else {
                    unit.refused(job, code, now, clock);
                }
                self.link_good(false);
            }
            Err(error) => {
                unit.failed(job, failure(error.to_string(), quality(&error)), now, clock);
                self.link_failed(&error);
            }
        }
    }

    /// A frame came back that answers the request: the link is up, whatever it says.
    pub(super) fn link_good(&mut self, good: bool) {
        self.strikes = 0;
        self.round = 0;
        self.backoff.reset();
        self.down = false;
        let link = &self.link;
        self.tasks.state.send_modify(|info| {
            if good {
                info.answers += 1;
            } else {
                info.failures += 1;
            }
            if info.state != LinkState::Up {
                info.state = LinkState::Up;
                tracing::info!(link = %link.endpoint(), connects = info.connects, "modbus link is up");
            }
        });
    }

    /// The connection is gone, or could not be made: decides when to try again, and whether the link is down.
    pub(super) fn link_failed(&mut self, error: &LinkError) {
        let now = Instant::now();
        self.strikes = self.strikes.saturating_add(1);
        let reason = error.to_string();
        let silent = error.is_connection() || self.units.iter().all(Unit::is_failing);
        let gone = match error {
            LinkError::ConnectTimeout(_) | LinkError::Handshake(_) => true,
            // A device that serves one connection may refuse the next for a moment after it has lost one.
            LinkError::Connect(_) => self.tasks.state.borrow().state != LinkState::Up,
            LinkError::Closed | LinkError::Broken(_) | LinkError::Timeout(_) | LinkError::BadFrame(_) => false,
        };
        let down = self.down || gone || (self.strikes > PATIENCE && silent);
        self.tasks.state.send_modify(|info| {
            info.failures += 1;
            info.last_error = Some(reason.clone());
        });
        if down && !self.down {
            self.down = true;
            self.round = self.units.len();
            tracing::warn!(link = %self.link.endpoint(), reason, "modbus link is down");
            self.units.iter_mut().for_each(|unit| unit.link_down(&reason, now));
        }
        let state = match error {
            LinkError::Handshake(_) => LinkState::Refused,
            LinkError::Connect(_)
            | LinkError::ConnectTimeout(_)
            | LinkError::Closed
            | LinkError::Broken(_)
            | LinkError::Timeout(_)
            | LinkError::BadFrame(_) => LinkState::Down,
        };
        if self.down {
            self.tasks.state.send_if_modified(|info| std::mem::replace(&mut info.state, state) != state);
        }
        let again = if self.down {
            self.round += 1;
            !error.is_connection() && self.round < self.units.len()
        } else {
            if self.strikes > 1 {
                self.units.iter_mut().for_each(|unit| unit.ask_for_life(now));
            }
            self.strikes <= PATIENCE && !matches!(error, LinkError::Connect(_))
        };
        self.reconnect_at = if again {
            now
        } else {
            self.round = 0;
            now + self.backoff.next_wait()
        };
    }
}

async fn receive(commands: &mut mpsc::Receiver<Command>, ended: bool) -> Woke {
    if ended {
        return std::future::pending().await;
    }
    commands.recv().await.map_or(Woke::NoCommands, Woke::Command)
}

/// Answers a command. The one who asked may have stopped waiting: then nobody misses the answer.
pub(super) fn answer(command: Command, outcome: Outcome) {
    drop(command.reply.send(outcome));
}

pub(super) fn why_down(tasks: &Tasks) -> String {
    let info = tasks.state.borrow();
    match &info.last_error {
        Some(error) => format!("the link is down: {error}"),
        None => "the link is not up yet".to_owned(),
    }
}

/// The quality of points whose request lasts to fail this way while the unit answers others.
fn quality(error: &LinkError) -> Quality {
    match error {
        LinkError::Timeout(_) => Quality::BAD_TIMEOUT,
        LinkError::BadFrame(_) => Quality::BAD_DECODING_ERROR,
        LinkError::Connect(_)
        | LinkError::ConnectTimeout(_)
        | LinkError::Handshake(_)
        | LinkError::Closed
        | LinkError::Broken(_) => Quality::BAD_NO_COMMUNICATION,
    }
}
