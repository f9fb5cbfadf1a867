//! A serial port of this machine: opened raw, with the line's settings, for this process alone.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
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
    port: Arc<OwnedFd>,
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
        let reader = Receiver::from_file_unchecked(File::from(fd.try_clone()?))?;
        let writer = Sender::from_file_unchecked(File::from(fd.try_clone()?))?;
        Ok(Self { reader, writer, port: Arc::new(fd) })
    }

    /// What [`discard`] works on.
    pub(crate) fn port(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.port)
    }
}

/// Throws away what a port has received and nobody has read, also what the kernel still has on its way to readers. Blocks.
pub(crate) fn discard(port: &OwnedFd) -> io::Result<()> {
    Ok(termios::tcflush(port, QueueSelector::IFlush)?)
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use tokio::io::AsyncReadExt;
    use tokio::time::timeout;

    use super::*;

    /// Whether the kernel has handed it over or not.
    #[tokio::test]
    async fn what_was_received_before_is_discarded_and_what_comes_after_is_not() {
        let devices = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&devices).unwrap();
        unlockpt(&devices).unwrap();
        let path = ptsname(&devices, Vec::new()).unwrap().into_string().unwrap();
        let line = Line { baud: 9600, parity: Parity::None, stop: 1 };
        let mut port = SerialPort::open(Path::new(&path), line).unwrap();
        let mut devices = File::from(devices);
        for round in 0..200_u8 {
            devices.write_all(b"late").unwrap();
            discard(&port.port()).unwrap();
            devices.write_all(&[round]).unwrap();
            let mut byte = [0; 8];
            let read = timeout(Duration::from_secs(20), port.read(&mut byte)).await.unwrap().unwrap();
            assert_eq!(byte[..read], [round]);
        }
    }
}
