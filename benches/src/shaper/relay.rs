//! The sockets of a shaper and the one thread that moves datagrams between them.
//!
//! Decides when to wake and what is sent together. Never decides what is delayed or dropped (see [`super::network`]).

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rustix::event::epoll;
use rustix::net::sockopt;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use super::ShaperError;
use super::link::Link;
use super::network::{Both, Counters, Direction, Network, Released};

/// Messages that one receive call may return.
const BATCH: usize = 16;
/// The largest message: a datagram, or several that the kernel has put together.
const MESSAGE_MAX_BYTES: usize = 65_536;
/// Payload bytes of one send call, and datagrams in it.
const SEND_MAX_BYTES: usize = 65_507;
/// Receive calls on one socket before the others have their turn.
const RECEIVES_IN_A_ROW: usize = 4;
const SOCKET_BUFFER_BYTES: usize = 16 * 1024 * 1024;
/// Client addresses at one time; more are not served until others have been silent.
const FLOWS_MAX: usize = 4_096;
/// After this much silence a client's socket is closed.
const FLOW_IDLE: Duration = Duration::from_secs(60);
const IDLE_CHECK: Duration = Duration::from_secs(10);
/// Wake-ups are at least this far apart while datagrams flow, by the shortest delay: a twentieth of it within these.
const PACE_LEAST: Duration = Duration::from_micros(50);
const PACE_MOST: Duration = Duration::from_micros(500);

/// A core that was wanted elsewhere for longer than this makes a burst.
const SPREAD_MOST: Duration = Duration::from_millis(5);
/// Better than what is measured, in the manner of `nice`.
const PRIORITY: i32 = -10;

const TOKEN_COMMAND: u64 = 0;
const TOKEN_TIMER: u64 = 1;
const TOKEN_DOORS: u64 = 2;
const TOKEN_FLOWS: u64 = 1 << 32;

/// What a handle asks of the thread; each is answered when it is done.
pub(super) enum Command {
    SetLink(Both<Link>, SyncSender<()>),
    SetDoorLink(usize, Option<Both<Link>>, SyncSender<bool>),
    Counters(SyncSender<Both<Counters>>),
    Stop,
}

struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

struct Door {
    socket: Socket,
    server: SocketAddr,
}

/// One client address at one door, with a socket of its own towards the server.
struct Flow {
    socket: Socket,
    door: usize,
    client: SocketAddr,
    last_used: Duration,
}

/// A datagram under way: a part of a message as it was received.
#[derive(Debug, Clone)]
struct Packet {
    flow: u64,
    ecn: Option<EcnCodepoint>,
    message: Arc<[u8]>,
    start: usize,
    end: usize,
}

/// A datagram that was found at a socket.
#[derive(Debug)]
struct Arrived {
    at: Duration,
    direction: Direction,
    door: usize,
    packet: Packet,
}

/// Everything that the thread owns.
pub(super) struct Relay {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    timer: OwnedFd,
    doors: Vec<Door>,
    flows: HashMap<u64, Flow>,
    flow_of: HashMap<(usize, SocketAddr), u64>,
    next_flow: u64,
    network: Network<Packet>,
    commands: Receiver<Command>,
    buffers: Vec<u8>,
    scratch: Vec<u8>,
    arrived: Vec<Arrived>,
    due: Vec<Released<Packet>>,
    /// Since when nobody looked at the sockets, on purpose; what is found then came evenly spread over that time.
    asleep_since: Option<Duration>,
    last_idle_check: Duration,
}

impl Relay {
    /// Opens one socket for each server, on loopback, and everything that the thread waits on.
    pub(super) fn open(
        servers: &[SocketAddr],
        network_links: Both<Link>,
        seed: u64,
        wake: Arc<OwnedFd>,
        commands: Receiver<Command>,
    ) -> Result<Self, ShaperError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(waiting)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .map_err(waiting)?;
        watch(&epoll, &*wake, TOKEN_COMMAND).map_err(ShaperError::Wait)?;
        watch(&epoll, &timer, TOKEN_TIMER).map_err(ShaperError::Wait)?;
        let mut doors = Vec::with_capacity(servers.len());
        for (index, server) in servers.iter().enumerate() {
            let socket = Socket::open(*server).map_err(ShaperError::Socket)?;
            watch(&epoll, &socket.socket, TOKEN_DOORS + index as u64).map_err(ShaperError::Wait)?;
            doors.push(Door { socket, server: *server });
        }
        Ok(Self {
            epoll,
            wake,
            timer,
            network: Network::new(network_links, doors.len(), seed),
            doors,
            flows: HashMap::new(),
            flow_of: HashMap::new(),
            next_flow: TOKEN_FLOWS,
            commands,
            buffers: vec![0; BATCH * MESSAGE_MAX_BYTES],
            scratch: Vec::with_capacity(SEND_MAX_BYTES),
            arrived: Vec::new(),
            due: Vec::new(),
            asleep_since: None,
            last_idle_check: monotonic(),
        })
    }

    /// Where clients send to, in the order of the servers.
    pub(super) fn addresses(&self) -> Result<Vec<SocketAddr>, ShaperError> {
        self.doors.iter().map(|door| door.socket.socket.local_addr().map_err(ShaperError::Socket)).collect()
    }

    /// Moves datagrams until it is told to stop; answers with the last counters.
    pub(super) fn run(mut self) -> Both<Counters> {
        // The line goes on whoever else wants the cores; only with the privilege, which a benchmark need not have.
        rustix::process::setpriority_process(None, PRIORITY).ok();
        // The default slack of 50 us would be added to every delay; where it cannot be lowered, delays are that much longer.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).ok();
        let mut events = [MaybeUninit::uninit(); 64];
        let mut armed = None;
        loop {
            let next = self.network.next_release();
            if next != armed {
                self.arm(next);
                armed = next;
            }
            let at_once = self.asleep_since.map(|_| Timespec { tv_sec: 0, tv_nsec: 0 });
            let ready: Vec<u64> = match epoll::wait(&self.epoll, &mut events, at_once.as_ref()) {
                Ok((ready, _)) => ready.iter().map(|event| event.data.u64()).collect(),
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return self.network.counters(),
            };
            if ready.is_empty() {
                // Nothing came while it slept: what comes now is found when it comes.
                self.asleep_since = None;
                continue;
            }
            let woken = monotonic();
            self.release(woken);
            let mut moved = !self.due.is_empty();
            for token in ready {
                match token {
                    TOKEN_COMMAND => {
                        if !self.obey() {
                            return self.network.counters();
                        }
                    }
                    TOKEN_TIMER => {
                        // An expired timer stays readable until it is read, or set anew.
                        armed = None;
                        rustix::io::read(&self.timer, &mut [0_u8; 8]).ok();
                    }
                    token => self.receive(token, woken),
                }
            }
            moved |= !self.arrived.is_empty();
            self.accept();
            self.release(woken);
            moved |= !self.due.is_empty();
            self.send();
            if woken.saturating_sub(self.last_idle_check) > IDLE_CHECK {
                self.close_idle(woken);
            }
            self.asleep_since = None;
            if moved {
                self.pace(woken);
            }
        }
    }

    /// Sleeps so that datagrams that come one by one are moved by the dozen: each wake-up costs more than a datagram.
    fn pace(&mut self, woken: Duration) {
        let Some(delay) = self.network.shortest_delay() else { return };
        let pause = (delay / 20).clamp(PACE_LEAST, PACE_MOST);
        self.asleep_since = Some(woken);
        if let Some(left) = (woken + pause).checked_sub(monotonic()) {
            std::thread::sleep(left);
        }
    }

    /// Sets the timer to a time; none takes it off.
    fn arm(&self, at: Option<Duration>) {
        // All zeros would take it off.
        let at = at.map_or(Duration::ZERO, |at| at.max(Duration::from_nanos(1)));
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(at).unwrap_or(never);
        // It can only fail for times that are none.
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: never, it_value }).ok();
    }

    /// Does what handles asked for; false when that was to stop.
    fn obey(&mut self) -> bool {
        rustix::io::read(&*self.wake, &mut [0_u8; 8]).ok();
        loop {
            // A handle that does not wait for its answer any more is none of our business.
            match self.commands.try_recv() {
                Ok(Command::SetLink(links, done)) => {
                    self.network.set_link(links);
                    done.send(()).ok();
                }
                Ok(Command::SetDoorLink(door, links, done)) => {
                    done.send(self.network.set_door_link(door, links)).ok();
                }
                Ok(Command::Counters(done)) => {
                    done.send(self.network.counters()).ok();
                }
                Ok(Command::Stop) | Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    /// Takes what waits at a socket.
    fn receive(&mut self, token: u64, now: Duration) {
        let first = self.arrived.len();
        for _ in 0..RECEIVES_IN_A_ROW {
            let socket = if token < TOKEN_FLOWS {
                usize::try_from(token - TOKEN_DOORS).ok().and_then(|door| self.doors.get(door)).map(|door| &door.socket)
            } else {
                self.flows.get(&token).map(|flow| &flow.socket)
            };
            let Some(socket) = socket else { break };
            let mut parts = self.buffers.chunks_exact_mut(MESSAGE_MAX_BYTES);
            let mut slices: [IoSliceMut<'_>; BATCH] =
                std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
            let mut metas = [RecvMeta::default(); BATCH];
            // Errors other than that nothing is there concern datagrams sent before, which nobody waits for.
            let Ok(count) = socket.state.recv((&socket.socket).into(), &mut slices, &mut metas) else { break };
            for (index, meta) in metas.iter().enumerate().take(count) {
                let start = index * MESSAGE_MAX_BYTES;
                if let Some((flow, direction, door)) = self.route(token, meta.addr, now) {
                    let message = Arc::from(&self.buffers[start..start + meta.len]);
                    split(&message, meta, flow, |packet| {
                        self.arrived.push(Arrived { at: now, direction, door, packet });
                    });
                }
            }
            if count < BATCH {
                break;
            }
        }
        if let Some(since) = self.asleep_since {
            // Taken for one burst, they would overflow queues that they never filled.
            let found = &mut self.arrived[first..];
            let count = u32::try_from(found.len()).unwrap_or(u32::MAX).max(1);
            let since = since.max(now.saturating_sub(SPREAD_MOST));
            let gap = now.saturating_sub(since) / count;
            for (arrived, number) in found.iter_mut().zip(1..) {
                arrived.at = since + gap * number;
            }
        }
    }

    /// Lets what arrived at all sockets into the network, in the order of its times.
    fn accept(&mut self) {
        self.arrived.sort_by_key(|arrived| arrived.at);
        for Arrived { at, direction, door, packet } in self.arrived.drain(..) {
            self.network.accept(at, direction, door, packet.end - packet.start, packet);
        }
    }

    /// Whose message it is; none for strangers, and for new clients where there are too many.
    fn route(&mut self, token: u64, from: SocketAddr, now: Duration) -> Option<(u64, Direction, usize)> {
        if token >= TOKEN_FLOWS {
            let flow = self.flows.get_mut(&token)?;
            flow.last_used = now;
            return (self.doors[flow.door].server == from).then_some((token, Direction::Down, flow.door));
        }
        let door = usize::try_from(token - TOKEN_DOORS).ok()?;
        if let Some(id) = self.flow_of.get(&(door, from)) {
            self.flows.get_mut(id)?.last_used = now;
            return Some((*id, Direction::Up, door));
        }
        if self.flows.len() >= FLOWS_MAX {
            return None;
        }
        let socket = Socket::open(self.doors[door].server).ok()?;
        let id = self.next_flow;
        watch(&self.epoll, &socket.socket, id).ok()?;
        self.next_flow += 1;
        self.flows.insert(id, Flow { socket, door, client: from, last_used: now });
        self.flow_of.insert((door, from), id);
        Some((id, Direction::Up, door))
    }

    fn release(&mut self, now: Duration) {
        self.network.release(now, &mut self.due);
    }

    /// Sends all that is due, what goes the same way in as few calls as the kernel allows.
    fn send(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        // Stable: the order within a flow is that of the network.
        due.sort_by_key(|released| (released.direction, released.payload.flow));
        let mut rest = due.as_slice();
        while let Some(first) = rest.first() {
            let Some(flow) = self.flows.get(&first.payload.flow) else {
                self.network.unsent(first.direction, first.bytes);
                rest = &rest[1..];
                continue;
            };
            let (socket, destination) = match first.direction {
                Direction::Up => (&flow.socket, self.doors[flow.door].server),
                Direction::Down => (&self.doors[flow.door].socket, flow.client),
            };
            let run = &rest[..run_length(rest, socket.state.max_gso_segments())];
            let unsent = socket.send(destination, run, &mut self.scratch);
            for released in unsent {
                self.network.unsent(released.direction, released.bytes);
            }
            rest = &rest[run.len()..];
        }
        due.clear();
        self.due = due;
    }

    /// Closes the sockets of clients that have been silent.
    fn close_idle(&mut self, now: Duration) {
        self.last_idle_check = now;
        self.flows.retain(|_, flow| now.saturating_sub(flow.last_used) < FLOW_IDLE);
        let flows = &self.flows;
        self.flow_of.retain(|_, id| flows.contains_key(id));
    }
}

/// Hands on the datagrams of one message.
fn split(message: &Arc<[u8]>, meta: &RecvMeta, flow: u64, mut take: impl FnMut(Packet)) {
    let stride = meta.stride.max(1);
    let mut start = 0;
    // An empty datagram is one too.
    loop {
        let end = (start + stride).min(message.len());
        take(Packet { flow, ecn: meta.ecn, message: Arc::clone(message), start, end });
        start = end;
        if start >= message.len() {
            return;
        }
    }
}

/// How many datagrams at the front can go in one call: one flow, one direction, one size but for a smaller last one.
fn run_length(due: &[Released<Packet>], segments_max: usize) -> usize {
    let Some(first) = due.first() else { return 0 };
    let mut bytes = first.bytes;
    let mut count = 1;
    if first.bytes == 0 {
        return 1;
    }
    while let Some(next) = due.get(count).filter(|_| count < segments_max) {
        let same_way = next.direction == first.direction
            && next.payload.flow == first.payload.flow
            && next.payload.ecn == first.payload.ecn;
        if !same_way || next.bytes > first.bytes || next.bytes == 0 || bytes + next.bytes > SEND_MAX_BYTES {
            break;
        }
        bytes += next.bytes;
        count += 1;
        if next.bytes < first.bytes {
            break;
        }
    }
    count
}

impl Socket {
    /// A socket on loopback of the family of `peer`, with large buffers.
    fn open(peer: SocketAddr) -> io::Result<Self> {
        let ip = match peer.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        };
        let socket = UdpSocket::bind(SocketAddr::new(ip, 0))?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
        }
        if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
            sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
        }
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state })
    }

    /// Sends datagrams of one run; returns those that the system did not take.
    fn send<'a>(
        &self,
        destination: SocketAddr,
        run: &'a [Released<Packet>],
        scratch: &mut Vec<u8>,
    ) -> &'a [Released<Packet>] {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return run };
        let follows = |pair: &[Released<Packet>]| {
            Arc::ptr_eq(&pair[0].payload.message, &pair[1].payload.message)
                && pair[0].payload.end == pair[1].payload.start
        };
        let contents = if run.windows(2).all(follows) {
            &first.payload.message[first.payload.start..last.payload.end]
        } else {
            scratch.clear();
            for Released { payload, .. } in run {
                scratch.extend_from_slice(&payload.message[payload.start..payload.end]);
            }
            scratch.as_slice()
        };
        let ecn = first.payload.ecn;
        let segment_size = (run.len() > 1).then_some(first.bytes);
        let whole = Transmit { destination, ecn, contents, segment_size, src_ip: None };
        if self.state.try_send((&self.socket).into(), &whole).is_ok() {
            return &[];
        }
        // Segmentation may be what failed; one by one, the rest fails from the first one that does.
        for (index, Released { payload, .. }) in run.iter().enumerate() {
            let contents = &payload.message[payload.start..payload.end];
            let one = Transmit { destination, ecn, contents, segment_size: None, src_ip: None };
            if self.state.try_send((&self.socket).into(), &one).is_err() {
                return &run[index..];
            }
        }
        &[]
    }
}

fn watch(epoll: &OwnedFd, source: impl std::os::fd::AsFd, token: u64) -> io::Result<()> {
    let data = epoll::EventData::new_u64(token);
    Ok(epoll::add(epoll.as_fd(), source, data, epoll::EventFlags::IN)?)
}

fn waiting(error: rustix::io::Errno) -> ShaperError {
    ShaperError::Wait(error.into())
}

/// The clock that the timer goes by.
fn monotonic() -> Duration {
    // The monotonic clock is never negative.
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}
