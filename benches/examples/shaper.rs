//! Moves UDP through a shaper and prints what came of it: rate, delays, loss, and CPU seconds per GB.
//!
//! `cargo run --release -p dolmen-benches --example shaper -- [MBIT_PER_SECOND [DELAY_MS [DATAGRAM_BYTES [SECONDS]]]]`
//!
//! The sender offers twenty percent more than the link carries, so that the queue is full: delays are those of the link
//! and of its queue. A second run offers a tenth of it, for the delay without a queue.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use dolmen_benches::shaper::process::{ShaperProcess, serve};
use dolmen_benches::shaper::{Both, Link, ShaperOptions};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

const SERVE: &str = "--serve";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == SERVE) {
        return Ok(serve(std::io::stdin().lock(), std::io::stdout())?);
    }
    let number = |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |argument| argument.parse());
    let rate = number(0, 1_000)? * 1_000_000;
    let delay = Duration::from_millis(number(1, 20)?);
    let datagram_bytes = usize::try_from(number(2, 1_452)?)?;
    let time = Duration::from_secs(number(3, 5)?);
    let link = Link::new(rate, delay);
    println!(
        "link: {} Mbit/s, {} ms one way, datagrams of {datagram_bytes} bytes",
        rate / 1_000_000,
        delay.as_millis()
    );
    for (name, share) in [("120 % offered", 1.2), ("10 % offered", 0.1)] {
        run(name, link, rate as f64 * share / 8.0, datagram_bytes, time)?;
    }
    Ok(())
}

fn run(
    name: &str,
    link: Link,
    bytes_per_second: f64,
    datagram_bytes: usize,
    time: Duration,
) -> Result<(), Box<dyn Error>> {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&server, 64 << 20).ok();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SERVE);
    let links = Both { up: link, down: link };
    let options = ShaperOptions { servers: vec![server.local_addr()?], links, seed: 1 };
    let mut shaper = ShaperProcess::start(command, options)?;
    let door = shaper.doors()[0];
    let start = Instant::now();
    let receiver = std::thread::spawn(move || receive(&server, start));
    send(door, bytes_per_second, datagram_bytes, time, start)?;
    let delays = receiver.join().map_err(|_| "the receiver panicked")??;
    let cpu = cpu_seconds(shaper.pid())?;
    let up = shaper.counters()?.up;
    let passed = delays.last.saturating_sub(delays.first).as_secs_f64();
    let gigabytes = up.received.bytes as f64 / 1e9;
    let line_bits = (delays.bytes as f64 + 28.0 * delays.microseconds.len() as f64) * 8.0;
    println!("{name}:");
    println!("  {:.1} Mbit/s on the line over {passed:.2} s", line_bits / passed / 1e6);
    print!("  delay ms:");
    let mut sorted = delays.microseconds;
    sorted.sort_unstable();
    for (name, part) in [("least", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)] {
        let index = ((sorted.len().max(1) - 1) as f64 * part).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of the list")]
        let at = sorted.get(index as usize).copied().unwrap_or_default();
        print!(" {name} {:.3}", f64::from(at) / 1000.0);
    }
    println!();
    println!(
        "  datagrams: {} received, {} delivered, {} queue full, {} lost, {} unsent, {} never seen by the server",
        up.received.datagrams,
        up.delivered.datagrams,
        up.queue_full.datagrams,
        up.lost.datagrams,
        up.unsent.datagrams,
        up.delivered.datagrams.saturating_sub(sorted.len() as u64),
    );
    println!(
        "  shaper: {cpu:.2} CPU s, {:.2} CPU s/GB received, {:.0} % of a core",
        cpu / gigabytes,
        cpu / passed * 100.0
    );
    Ok(())
}

/// Sends batches that keep the rate, each datagram with the microseconds since `start` in front.
fn send(
    door: SocketAddr,
    bytes_per_second: f64,
    datagram_bytes: usize,
    time: Duration,
    start: Instant,
) -> Result<(), Box<dyn Error>> {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let state = UdpSocketState::new((&client).into())?;
    // As many as quinn puts together.
    let batch = (65_507 / datagram_bytes).clamp(1, 10);
    let mut contents = vec![0_u8; batch * datagram_bytes];
    let mut sent = 0.0;
    while start.elapsed() < time {
        let allowed = start.elapsed().as_secs_f64() * bytes_per_second;
        while sent < allowed {
            let now = u64::try_from(start.elapsed().as_micros())?.to_le_bytes();
            for datagram in contents.chunks_exact_mut(datagram_bytes) {
                datagram[..8].copy_from_slice(&now);
            }
            let segment_size = (batch > 1).then_some(datagram_bytes);
            let transmit = Transmit { destination: door, ecn: None, contents: &contents, segment_size, src_ip: None };
            state.send((&client).into(), &transmit)?;
            sent += contents.len() as f64;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

struct Delays {
    microseconds: Vec<u32>,
    bytes: u64,
    first: Duration,
    last: Duration,
}

/// Receives until nothing has come for a second.
fn receive(server: &UdpSocket, start: Instant) -> Result<Delays, std::io::Error> {
    let state = UdpSocketState::new(server.into())?;
    let mut delays = Delays { microseconds: Vec::new(), bytes: 0, first: Duration::ZERO, last: Duration::ZERO };
    let mut buffer = vec![0; 65_536];
    loop {
        let mut poll = [rustix::event::PollFd::new(server, rustix::event::PollFlags::IN)];
        let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        if rustix::event::poll(&mut poll, Some(&second))? == 0 {
            if delays.microseconds.is_empty() && start.elapsed() < Duration::from_secs(10) {
                continue;
            }
            return Ok(delays);
        }
        let mut meta = [RecvMeta::default()];
        let count = match state.recv(server.into(), &mut [IoSliceMut::new(&mut buffer)], &mut meta) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let now = start.elapsed();
        if count == 0 || meta[0].len < 8 {
            continue;
        }
        if delays.microseconds.is_empty() {
            delays.first = now;
        }
        delays.last = now;
        delays.bytes += meta[0].len as u64;
        for datagram in buffer[..meta[0].len].chunks(meta[0].stride.max(8)) {
            let Some(sent) = datagram.first_chunk::<8>() else { continue };
            let late = u64::try_from(now.as_micros()).unwrap_or(u64::MAX).saturating_sub(u64::from_le_bytes(*sent));
            delays.microseconds.push(u32::try_from(late).unwrap_or(u32::MAX));
        }
    }
}

fn cpu_seconds(pid: u32) -> Result<f64, Box<dyn Error>> {
    let stat = procfs::process::Process::new(i32::try_from(pid)?)?.stat()?;
    Ok((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}
