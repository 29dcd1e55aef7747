//! Writing and reading heads over the simulated network.
//!
//! Decides what a node's answer means for a head session, as a client must: what is not signed by the right key is no news.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::attempt::Fault;
use dolmen_proto::head::Head;
use dolmen_proto::heads::{
    HeadPlaces, HeadReadAction, HeadReadEvent, HeadReadOutcome, HeadReadSession, HeadVersion, HeadWriteAction,
    HeadWriteEvent, HeadWriteOutcome, HeadWriteSession,
};
use dolmen_proto::keys::{LocatorSecret, point};
use dolmen_proto::limits::{HEAD_NAMED_PER_POINT, HEAD_POINTS, LEASE_DEFAULT};
use dolmen_proto::placement::ranked_head_holders;
use dolmen_proto::wire::{GetHeadRequest, PutHeadRequest, Reply, Request};
use futures::FutureExt;

use super::driver::{Step, drive};
use super::world::{CallFailure, World};

/// Three tries at each node of each point.
const ATTEMPTS_MAX: usize = HEAD_POINTS * HEAD_NAMED_PER_POINT * 3;

pub(crate) fn fault_of(failure: CallFailure) -> Fault {
    match failure {
        CallFailure::Broken => Fault::Unreachable,
        CallFailure::Misbehaved => Fault::Misbehaved,
    }
}

fn places(world: &World, locator: &LocatorSecret) -> HeadPlaces {
    let nodes = world.operators();
    let points = (0..HEAD_POINTS).map(|number| point(locator, u8::try_from(number).expect("eight points")));
    HeadPlaces(points.map(|point| ranked_head_holders(&point, &nodes, HEAD_NAMED_PER_POINT)).collect())
}

/// Writes a head at its points.
pub async fn write_head(world: &Rc<World>, from: IpAddr, locator: &LocatorSecret, head: &Head) -> HeadWriteOutcome {
    let session = HeadWriteSession::new(HeadVersion::from(head), places(world, locator), world.clock.now());
    let session = session.expect("eight points");
    let (locator, bytes, key) = (locator.clone(), head.bytes().clone(), *head.public_key());
    drive(world, "write head", session, ATTEMPTS_MAX, |action, _| match action {
        HeadWriteAction::Cancel { attempt } => Step::Cancel(attempt),
        HeadWriteAction::Put { attempt, point: number, node } => {
            let until = world.clock.now().after(LEASE_DEFAULT);
            let request = PutHeadRequest { point: point(&locator, number), head: bytes.clone(), until };
            let call = world.clone().call(from, node, Request::PutHead(request), Bytes::new(), |_| {});
            let event = async move {
                let fault = match call.await {
                    Err(failure) => fault_of(failure),
                    Ok((Reply::PutHead(reply), _)) => {
                        let other = reply.current.and_then(|bytes| Head::parse(&bytes).ok());
                        let other = other.filter(|head| *head.public_key() == key).as_ref().map(HeadVersion::from);
                        match other {
                            displaced if reply.accepted => return HeadWriteEvent::Accepted { attempt, displaced },
                            Some(version) => return HeadWriteEvent::Kept { attempt, version },
                            None => Fault::Misbehaved,
                        }
                    }
                    Ok((Reply::Error(error), _)) => Fault::from(&error),
                    Ok(_) => Fault::Misbehaved,
                };
                HeadWriteEvent::Failed { attempt, fault }
            };
            Step::Start(attempt, event.boxed_local())
        }
    })
    .await
}

/// Looks for the newest head that `opens`, none older than `seen_before`; gives it with what the session came to.
pub async fn read_head(
    world: &Rc<World>,
    from: IpAddr,
    locator: &LocatorSecret,
    seen_before: Option<HeadVersion>,
    opens: impl Fn(&Head) -> bool + Clone + 'static,
) -> (HeadReadOutcome, Option<Head>) {
    let session = HeadReadSession::new(seen_before, places(world, locator), world.clock.now());
    let session = session.expect("eight points");
    let seen: Rc<RefCell<BTreeMap<HeadVersion, Head>>> = Rc::default();
    let outcome = drive(world, "read head", session, ATTEMPTS_MAX, |action, _| match action {
        HeadReadAction::Cancel { attempt } => Step::Cancel(attempt),
        HeadReadAction::Get { attempt, point: number, node } => {
            let request = GetHeadRequest { point: point(locator, number), key: None };
            let call = world.clone().call(from, node, Request::GetHead(request), Bytes::new(), |_| {});
            let (opens, seen) = (opens.clone(), seen.clone());
            let event = async move {
                let fault = match call.await {
                    Err(failure) => fault_of(failure),
                    Ok((Reply::GetHead(heads), _)) if heads.is_empty() => return HeadReadEvent::Nothing { attempt },
                    Ok((Reply::GetHead(heads), _)) => {
                        let heads = heads.iter().filter_map(|bytes| Head::parse(bytes).ok()).filter(&opens);
                        match heads.max_by_key(|head| HeadVersion::from(head)) {
                            Some(head) => {
                                let version = HeadVersion::from(&head);
                                seen.borrow_mut().insert(version, head);
                                return HeadReadEvent::Found { attempt, version };
                            }
                            None => Fault::Misbehaved,
                        }
                    }
                    Ok((Reply::Error(error), _)) => Fault::from(&error),
                    Ok(_) => Fault::Misbehaved,
                };
                HeadReadEvent::Failed { attempt, fault }
            };
            Step::Start(attempt, event.boxed_local())
        }
    })
    .await;
    let head = match &outcome {
        HeadReadOutcome::Found { newest, .. } => seen.borrow().get(newest).cloned(),
        _ => None,
    };
    (outcome, head)
}

/// How long to wait before a write that reached too few points is tried again with the same head.
pub const REWRITE_AFTER: Duration = Duration::from_secs(20);
