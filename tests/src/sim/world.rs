//! The world: nodes, the network between them and their clients, and the record of all that happened.
//!
//! Decides what a call goes through: encoded, carried or lost, taken in by the node in steps, answered, carried back. Every
//! message passes through the real codec of the wire.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::ids::{NodeId, OperatorId, Timestamp};
use dolmen_proto::placement::{Candidate, STANDING_UNKNOWN};
use dolmen_proto::wire::frame::{LENGTH_BYTES, encode_reply, encode_request, parse_reply, parse_request};
use dolmen_proto::wire::{NodeRecord, Reply, Request};
use futures::channel::oneshot;

use super::clock::Clock;
use super::network::{Fate, Network};
use super::node::{Condition, PutStep, VirtualNode};
use crate::faulty_disk::{Crash, Draw};

/// Everything there is in one run.
pub struct World {
    /// The time.
    pub clock: Clock,
    nodes: Vec<RefCell<VirtualNode>>,
    places: BTreeMap<NodeId, usize>,
    records: Vec<NodeRecord>,
    network: RefCell<Network>,
    trace: RefCell<blake3::Hasher>,
    calls: Cell<u64>,
    verbose: bool,
}

/// The connection broke, or bytes came that are no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFailure {
    /// The connection broke.
    Broken,
    /// What came back is no answer to the question.
    Misbehaved,
}

/// What a call brings back: the reply, parsed and fitting, and its payload, not yet believed.
pub type Answer = Result<(Reply, Vec<u8>), CallFailure>;

/// Tells the node that nobody waits any more, if nobody does.
struct GiveUp {
    world: Rc<World>,
    place: usize,
    call: u64,
    answered: bool,
}

impl Drop for GiveUp {
    fn drop(&mut self) {
        if !self.answered {
            let (world, place, call) = (self.world.clone(), self.place, self.call);
            let delay = self.world.network.borrow_mut().delay(64, 1);
            self.world.clock.after(delay, move || world.nodes[place].borrow_mut().forget(call));
        }
    }
}

impl World {
    /// A world of these nodes, whose records everybody has checked.
    #[must_use]
    pub fn new(clock: Clock, nodes: Vec<VirtualNode>, network: Network, verbose: bool) -> Rc<Self> {
        let now = clock.now();
        let records = nodes.iter().map(|node| node.record(now).verify(now).expect("a good record").clone()).collect();
        Rc::new(Self {
            clock,
            places: nodes.iter().enumerate().map(|(place, node)| (node.id, place)).collect(),
            nodes: nodes.into_iter().map(RefCell::new).collect(),
            records,
            network: RefCell::new(network),
            trace: RefCell::default(),
            calls: Cell::new(0),
            verbose,
        })
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[RefCell<VirtualNode>] {
        &self.nodes
    }

    /// The node with this id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &RefCell<VirtualNode> {
        &self.nodes[self.places[&id]]
    }

    /// What placement chooses from.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        self.records.iter().filter_map(|record| Candidate::from_record(record, STANDING_UNKNOWN, 0)).collect()
    }

    /// What the holders of heads are chosen from.
    #[must_use]
    pub fn operators(&self) -> Vec<(NodeId, Option<OperatorId>)> {
        self.records.iter().map(|record| (record.node, record.operator_id())).collect()
    }

    /// Notes that something happened.
    #[allow(clippy::print_stderr, reason = "whoever runs one seed wants to see it")]
    pub fn trace(&self, what: &str, first: u64, second: u64) {
        let mut trace = self.trace.borrow_mut();
        trace.update(&self.clock.now().as_unix_ms().to_le_bytes());
        trace.update(what.as_bytes()).update(&first.to_le_bytes()).update(&second.to_le_bytes());
        if self.verbose {
            eprintln!("{:>9} {what} {first} {second}", self.clock.now().as_unix_ms() % 1_000_000_000);
        }
    }

    /// The hash of all that happened so far.
    #[must_use]
    pub fn trace_hash(&self) -> blake3::Hash {
        self.trace.borrow().finalize()
    }

    /// Calls made so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// Stops a node at once.
    pub fn crash(&self, place: usize, crash: Crash, condition: Condition) {
        self.trace("crash", place as u64, u64::from(condition == Condition::Dead));
        self.nodes[place].borrow_mut().crash(crash, condition);
    }

    /// Starts a node that is down.
    pub fn restart(&self, place: usize) {
        let mut node = self.nodes[place].borrow_mut();
        if node.condition == Condition::Down {
            self.trace("restart", place as u64, 0);
            node.start(self.clock.now());
        }
    }

    /// Asks a node. Never comes back when a message is lost: sessions have clocks of their own. `moved` hears how many bytes of
    /// the payload the node has taken in.
    pub async fn call(
        self: Rc<Self>,
        from: IpAddr,
        node: NodeId,
        request: Request,
        payload: Bytes,
        moved: impl Fn(u64) + 'static,
    ) -> Answer {
        let place = self.places[&node];
        let call = self.calls.get();
        self.calls.set(call + 1);
        let header = Bytes::from(encode_request(&request).expect("the simulator's requests fit"));
        let bytes = header.len() + payload.len();
        self.trace(request.name(), place as u64, bytes as u64);
        let (sender, receiver) = oneshot::channel::<Answer>();
        let slowness = self.nodes[place].borrow().slowness();
        let fate = self.network.borrow_mut().fate(bytes, slowness);
        let mut give_up = GiveUp { world: self.clone(), place, call, answered: false };
        let arrival = Arrival { world: self.clone(), place, call, from, payload, moved: Box::new(moved), sender };
        match fate {
            Fate::Arrives(delay) => {
                self.clock.after(delay, move || arrival.arrive(header.slice(LENGTH_BYTES..)));
            }
            Fate::Broken(delay) => arrival.tell(delay, Err(CallFailure::Broken)),
            Fate::Lost => arrival.lose(),
        }
        let answer = receiver.await.unwrap_or(Err(CallFailure::Broken));
        give_up.answered = true;
        let (reply, payload) = answer?;
        let fits = request.check_reply(&reply).is_ok() && reply.payload_bytes() == payload.len() as u64;
        if fits { Ok((reply, payload)) } else { Err(CallFailure::Misbehaved) }
    }
}

/// A call on its way.
struct Arrival {
    world: Rc<World>,
    place: usize,
    call: u64,
    from: IpAddr,
    payload: Bytes,
    moved: Box<dyn Fn(u64)>,
    sender: oneshot::Sender<Answer>,
}

impl Arrival {
    /// Nobody will ever answer, and nobody is told: the asker waits until it gives up.
    fn lose(self) {
        let hour = Duration::from_secs(3600);
        let clock = self.world.clock.clone();
        clock.after(hour, move || drop(self));
    }

    fn tell(self, delay: Duration, answer: Answer) {
        let clock = self.world.clock.clone();
        clock.after(delay, move || {
            // The asker may have given up.
            let _ = self.sender.send(answer);
        });
    }

    fn arrive(self, header: Bytes) {
        let world = self.world.clone();
        let now = world.clock.now();
        let mut node = world.nodes[self.place].borrow_mut();
        world.trace("arrive", self.place as u64, self.call);
        if node.condition != Condition::Up {
            // A machine that is off says nothing; one whose process died refuses.
            return if self.call.is_multiple_of(2) {
                self.lose()
            } else {
                self.tell(Duration::from_millis(100), Err(CallFailure::Broken))
            };
        }
        match parse_request(header) {
            Err(error) => self.reply(Reply::Error(error), Vec::new(), node.slowness()),
            Ok(Request::Put(put)) => {
                let step = node.begin_put(self.call, &put, self.payload.clone(), now, self.from);
                (self.moved)(self.payload.len() as u64 / 2);
                let slowness = node.slowness();
                self.go_on(step, slowness);
            }
            Ok(request) => {
                let (reply, payload) = node.answer(&request, now, self.from);
                let slowness = node.slowness();
                self.reply(reply, payload, slowness);
            }
        }
    }

    fn go_on(self, step: PutStep, slowness: u32) {
        match step {
            PutStep::Done(reply) => self.reply(reply, Vec::new(), slowness),
            PutStep::GoesOn => {
                let delay = self.world.network.borrow_mut().delay(0, slowness);
                let clock = self.world.clock.clone();
                clock.after(delay, move || {
                    let world = self.world.clone();
                    let mut node = world.nodes[self.place].borrow_mut();
                    match node.continue_put(self.call) {
                        Some(step) => self.go_on(step, slowness),
                        None => self.lose(),
                    }
                });
            }
        }
    }

    fn reply(self, reply: Reply, payload: Vec<u8>, slowness: u32) {
        let header = encode_reply(&reply).expect("the node's replies fit");
        self.world.trace("reply", self.place as u64, (header.len() + payload.len()) as u64);
        let fate = self.world.network.borrow_mut().fate(header.len() + payload.len(), slowness);
        let parsed = parse_reply(Bytes::from(header).slice(LENGTH_BYTES..)).map_err(|_| CallFailure::Misbehaved);
        match fate {
            Fate::Arrives(delay) => self.tell(delay, parsed.map(|reply| (reply, payload))),
            Fate::Broken(delay) => self.tell(delay, Err(CallFailure::Broken)),
            Fate::Lost => self.lose(),
        }
    }
}

/// Has honest nodes crash and come back until `until`; nobody else stops.
pub async fn weather_of_nodes(world: Rc<World>, mut draw: Draw, pause_ms: u64, until: Rc<Cell<bool>>) {
    while !until.get() {
        world.clock.sleep(Duration::from_millis(1 + draw.next() % pause_ms)).await;
        let place = draw.below(world.nodes.len());
        let up = world.nodes[place].borrow().condition == Condition::Up;
        if up && !until.get() {
            let crash = [Crash::Everything, Crash::Anything, Crash::Anything, Crash::Nothing][draw.below(4)];
            world.crash(place, crash, Condition::Down);
            let later = world.clone();
            world.clock.after(Duration::from_millis(500 + draw.next() % 40_000), move || later.restart(place));
        }
    }
}

/// The time at which every run starts.
pub const START: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);
