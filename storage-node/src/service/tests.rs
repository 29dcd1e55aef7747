//! Every rule of the service, over a real store in a temporary folder and a clock that the test moves.

use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::head::Head;
use dolmen_proto::ids::{AccountId, Point, ShardRoot};
use dolmen_proto::limits::{LEASE_DEFAULT, LEASE_GRACE, LEASE_INITIAL, LEASE_MAX, REQUEST_LIFE};
use dolmen_proto::root::{root_of, verify_slice};
use dolmen_proto::wire::{
    DeleteBody, DeleteRequest, GetHeadRequest, GetRequest, GrantRights, KeptReceipt, LeaseTerms, ListBody, ListRequest,
    PutHeadRequest, PutRequest, Receipt, RenewBody, RenewReceipt, RenewRequest, StewardGrant,
};

use super::*;
use crate::disk::FileDisk;
use crate::store::{DataFolder, IndexPlace, StoreOptions, initialise};

mod audits;
mod harness;
mod heads;
mod leases;
mod moved;
mod quotas;
mod rebuilding;

use harness::*;
