//! Sockets and epoll, through rustix: no unsafe code, nothing between us and the system calls.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};
use rustix::time::Timespec;

/// Events taken by one wait.
const EVENTS_MAX: usize = 1024;

/// A connected, non-blocking socket with Nagle off. It is reset when closed, so that ten thousand of
/// them don't hold their ports for the next run.
pub(crate) fn dial(address: SocketAddr, receive_buffer: Option<usize>) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .context("opening a socket: is `ulimit -n` at 20000?")?;
    if let Some(bytes) = receive_buffer {
        sockopt::set_socket_recv_buffer_size(&fd, bytes)?;
    }
    connect(&fd, &address).with_context(|| format!("connecting to {address}"))?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    sockopt::set_socket_linger(&fd, Some(Duration::ZERO))?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

/// Reads once; `None` means that nothing is there, 0 that nothing will be.
pub(crate) fn read(fd: impl AsFd, buffer: &mut [u8]) -> Result<Option<usize>> {
    match recv(fd, buffer, RecvFlags::empty()) {
        Ok((got, _)) => Ok(Some(got)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        // What was cut is the same as what was ended to a reader.
        Err(Errno::CONNRESET) => Ok(Some(0)),
        Err(error) => Err(error).context("reading"),
    }
}

/// Writes once; how many bytes were taken.
pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> Result<usize> {
    match send(fd, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error).context("writing"),
    }
}

/// Level-triggered epoll: one read per event is enough, what is left shows up again.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_MAX) })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: u64) -> Result<()> {
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?)
    }

    /// Asks for writability too, or no longer.
    pub(crate) fn want_write(&self, fd: impl AsFd, token: u64, wants: bool) -> Result<()> {
        let out = if wants { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        let data = epoll::EventData::new_u64(token);
        Ok(epoll::modify(&self.epoll, fd, data, epoll::EventFlags::IN | out)?)
    }

    pub(crate) fn remove(&self, fd: impl AsFd) -> Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits for at most `timeout`, and puts the tokens of what is ready into `ready`.
    pub(crate) fn wait(&mut self, timeout: Duration, ready: &mut Vec<u64>) -> Result<()> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        self.events.clear();
        ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.extend(self.events.iter().map(|event| event.data.u64()));
        Ok(())
    }
}
