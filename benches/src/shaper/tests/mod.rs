//! The shaper's lanes in virtual time against a plain model, and the shaper between real sockets.

mod sockets;
mod virtual_time;
