//! A serial port of this machine: opened raw, with the line's settings, for this process alone.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::termios::{ControlModes, InputModes, OptionalActions, QueueSelector, SpecialCodeIndex};
use rustix::{fs, termios};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe::{Receiver, Sender};

use crate::config::{Line, Parity};

/// An open serial port. To tokio it is a pair of pipes: both read and write a file that can be waited for, and do it
/// without `unsafe`.
#[derive(Debug)]
pub(crate) struct SerialPort {
    reader: Receiver,
    writer: Sender,
}

impl SerialPort {
    /// Opens `path` and sets the line up. Blocks for the few milliseconds that a driver takes; to be called within a
    /// tokio runtime.
    pub(crate) fn open(path: &Path, line: Line) -> io::Result<Self> {
        // Without NONBLOCK opening waits for a carrier; NOCTTY keeps a line break from ending the gateway.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty())?;
        // Two masters on one line would take each other's answers.
        fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            if error == rustix::io::Errno::WOULDBLOCK {
                io::Error::new(io::ErrorKind::ResourceBusy, "another link or program has it open")
            } else {
                error.into()
            }
        })?;
        set_up(&fd, path, line)?;
        let file = File::from(fd);
        let writer = Sender::from_file_unchecked(file.try_clone()?)?;
        Ok(Self { reader: Receiver::from_file_unchecked(file)?, writer })
    }
}

fn set_up(fd: &OwnedFd, path: &Path, line: Line) -> io::Result<()> {
    let mut wanted = termios::tcgetattr(fd)?;
    wanted.make_raw();
    wanted.input_modes.remove(InputModes::INPCK | InputModes::IXOFF | InputModes::IXANY);
    wanted.control_modes.insert(ControlModes::CREAD | ControlModes::CLOCAL);
    wanted.control_modes.remove(ControlModes::CRTSCTS);
    wanted.control_modes.set(ControlModes::PARENB, line.parity != Parity::None);
    wanted.control_modes.set(ControlModes::PARODD, line.parity == Parity::Odd);
    wanted.control_modes.set(ControlModes::CSTOPB, line.stop == 2);
    wanted.special_codes[SpecialCodeIndex::VMIN] = 1;
    wanted.special_codes[SpecialCodeIndex::VTIME] = 0;
    wanted.set_speed(line.baud)?;
    termios::tcsetattr(fd, OptionalActions::Now, &wanted)?;
    let got = termios::tcgetattr(fd)?;
    let check = ControlModes::PARENB | ControlModes::PARODD | ControlModes::CSTOPB;
    if got.output_speed() != line.baud || got.control_modes & check != wanted.control_modes & check {
        // A pseudo-terminal has no parity; an adapter that can't do it is better named than refused.
        tracing::warn!(port = %path.display(), line = %line, baud = got.output_speed(), "the serial port did not take all settings");
    }
    termios::tcflush(fd, QueueSelector::IOFlush)?;
    Ok(())
}

impl AsyncRead for SerialPort {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for SerialPort {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
