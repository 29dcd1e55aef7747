//! The simulated network: when a message arrives, or that it never does.
//!
//! Decides delay, loss and broken connections from a seed. Messages overtake one another because each has a delay of its own.
//! Never looks into a message.

use std::time::Duration;

use crate::faulty_disk::Draw;

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Messages in a thousand that vanish without a trace.
    pub lost_per_mille: u64,
    /// Messages in a thousand that break their connection, which the sender notices.
    pub broken_per_mille: u64,
    /// Delay of an ordinary message, at least and at most, in milliseconds.
    pub delay_ms: (u64, u64),
    /// Messages in a thousand that take twenty times as long.
    pub late_per_mille: u64,
    /// Bytes that travel in a millisecond.
    pub bytes_per_ms: u64,
}

impl Weather {
    /// Weather from a seed: from a quiet data centre to a bad mobile link.
    #[must_use]
    pub fn draw(draw: &mut Draw) -> Self {
        let bad = draw.next() % 4;
        Self {
            lost_per_mille: draw.next() % (1 + 12 * bad),
            broken_per_mille: draw.next() % (1 + 12 * bad),
            delay_ms: (1 + draw.next() % 20, 30 + draw.next() % 150),
            late_per_mille: draw.next() % (1 + 20 * bad),
            bytes_per_ms: 20 + draw.next() % 500,
        }
    }
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives after this time.
    Arrives(Duration),
    /// It never does, and nobody is told.
    Lost,
    /// It never does, and the sender is told after this time.
    Broken(Duration),
}

/// The network between all clients and all nodes.
#[derive(Debug)]
pub struct Network {
    weather: Weather,
    draw: Draw,
}

impl Network {
    /// A network with this weather.
    #[must_use]
    pub const fn new(weather: Weather, draw: Draw) -> Self {
        Self { weather, draw }
    }

    /// What becomes of a message of so many bytes to or from a node that is `slowness` times as slow as others.
    pub fn fate(&mut self, bytes: usize, slowness: u32) -> Fate {
        let delay = self.delay(bytes, slowness);
        let chance = self.draw.next() % 1000;
        if chance < self.weather.lost_per_mille {
            Fate::Lost
        } else if chance < self.weather.lost_per_mille + self.weather.broken_per_mille {
            Fate::Broken(delay)
        } else {
            Fate::Arrives(delay)
        }
    }

    /// How long a message takes that does arrive.
    pub fn delay(&mut self, bytes: usize, slowness: u32) -> Duration {
        let (least, most) = self.weather.delay_ms;
        let mut delay_ms = least + self.draw.next() % (most - least);
        if self.draw.next() % 1000 < self.weather.late_per_mille {
            delay_ms *= 20;
        }
        Duration::from_millis(delay_ms + bytes as u64 / self.weather.bytes_per_ms) * slowness
    }
}
