//! Reads a case as a client would, and says what was read.

use std::fmt::Debug;

use data_encoding::HEXLOWER;
use dolmen_proto::codec::Needs;
use dolmen_proto::dataset_root::{DatasetRoot, DatasetRootHasher, RootEntry};
use dolmen_proto::head::{Head, Holder, ReadBody, SealedNote, TableBody, TableLocation, Verdict, ViewBody, accept};
use dolmen_proto::history::HistoryRow;
use dolmen_proto::ids::SegmentId;
use dolmen_proto::keys::{OwnerNoteKey, ReadSecret, TableSecret, ViewSecret};
use dolmen_proto::ledger::{Ledger, Share};
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::manifest::{Entry, EntryKind, Extent, ExtentList, FolderEntry, FolderWalk, Snapshot, Totals};
use dolmen_proto::table::{ForwardRow, LeavingRow, NodeEntry, Rows, SegmentRow, StoredReceipt, TableRoot};
use dolmen_proto::tree::{BlobPointer, CountedTree, Node, SELF_SEGMENT, TreeItem, TreeWalk};
use serde_json::{Value, json};

use crate::{hex, stewards};

/// What the case reads as, or the error's name.
pub(crate) fn read(case: &Value) -> Result<Value, String> {
    match text(case, "reader") {
        "link" => link(text(case, "text")),
        "head" => head(case),
        "heads in order" => heads_in_order(case),
        "snapshot" => snapshot(&bytes(case, "bytes")),
        "table" => table(&bytes(case, "bytes")),
        "folder blob" => {
            node::<Entry>(&bytes(case, "bytes"), entry, |name| json!(name.as_bytes().escape_ascii().to_string()))
        }
        "extent blob" => node::<Extent>(&bytes(case, "bytes"), extent, |span| json!(span.0)),
        "row blob" => node::<SegmentRow>(&bytes(case, "bytes"), row, |id| json!(id.to_string())),
        "receipt blob" => node::<StoredReceipt>(
            &bytes(case, "bytes"),
            receipt,
            |key| json!({"root": key.root.to_string(), "node": key.node.to_string()}),
        ),
        "forward blob" => node::<ForwardRow>(
            &bytes(case, "bytes"),
            forward,
            |key| json!({"segment": key.segment.to_string(), "offset": key.offset}),
        ),
        "leaving blob" => node::<LeavingRow>(&bytes(case, "bytes"), leaving, |id| json!(id.to_string())),
        "history blob" => node::<HistoryRow>(
            &bytes(case, "bytes"),
            kept,
            |key| json!({"created_ms": key.created.as_unix_ms(), "id": key.id.to_string()}),
        ),
        "steward head" => stewards::head(case),
        "overlay head" => stewards::overlay_head_of(case),
        "lineage of a read head" => crate::lineage::read(case),
        "stewards of a read head" => stewards::stewards_of_read_head(case),
        "grant blob" => stewards::grant_blob(case),
        "overlay blob" => stewards::overlay_blob(case),
        "overlay" => stewards::overlay(case),
        "ledger" => ledger(&bytes(case, "bytes")),
        "standing" => crate::standing::read(&bytes(case, "bytes")),
        "owner note" => owner_note(case),
        "dataset root" => dataset_root(text(case, "text")),
        "entries of a dataset root" => dataset_root_entries(case),
        "extent walk" => extent_walk(case),
        "folder walk" => folder_walk(case),
        other => panic!("no reader is called {other}"),
    }
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("{field} is a text"))
}

pub(crate) fn bytes(case: &Value, field: &str) -> Vec<u8> {
    let mut bytes = HEXLOWER.decode(text(case, field).as_bytes()).expect("hexadecimal");
    let zeros = case.get("zeros_after").map_or(0, |count| count.as_u64().expect("a number"));
    bytes.resize(bytes.len() + usize::try_from(zeros).expect("few"), 0);
    bytes
}

pub(crate) fn array(case: &Value, field: &str) -> [u8; 32] {
    HEXLOWER.decode(text(case, field).as_bytes()).expect("hexadecimal").try_into().expect("32 bytes")
}

fn blobs(case: &Value) -> Vec<Vec<u8>> {
    let blobs = case["blobs"].as_array().expect("a list of blobs");
    blobs.iter().map(|blob| HEXLOWER.decode(blob.as_str().expect("a text").as_bytes()).expect("hexadecimal")).collect()
}

/// The error's name with those of the errors around it, `Codec.Truncated`: messages may get better, names stay.
pub(crate) fn said(error: impl Debug) -> String {
    let text = format!("{error:?}");
    let names = text.split('(').map(|part| part.split(|symbol: char| !symbol.is_alphanumeric()).next().unwrap_or(""));
    names.take_while(|name| name.starts_with(char::is_uppercase)).collect::<Vec<_>>().join(".")
}

fn link(text: &str) -> Result<Value, String> {
    let link = Link::parse(text).map_err(said)?;
    assert_eq!(*link.to_text(), text, "one text for one link");
    let (kind, secret) = match link.secret() {
        LinkSecret::ReadLive(secret) => ("read live", secret.expose()),
        LinkSecret::ReadFrozen(secret) => ("read frozen", secret.expose()),
        LinkSecret::View(secret) => ("view", secret.expose()),
        LinkSecret::Steward(secret) => ("steward", secret.expose()),
    };
    Ok(json!({"kind": kind, "secret": hex(secret), "bootstrap": link.bootstrap()}))
}

fn head(case: &Value) -> Result<Value, String> {
    let head = Head::parse(&bytes(case, "bytes")).map_err(said)?;
    let body = if case.get("link").is_some() {
        let link = Link::parse(text(case, "link")).map_err(said)?;
        match link.view_secret() {
            Some(secret) => view_body(&head.open_view(secret).map_err(said)?),
            None => read_body(&head.open_link(&link).map_err(said)?),
        }
    } else if case.get("view_secret").is_some() {
        let secret = ViewSecret::new(array(case, "view_secret"));
        view_body(&head.open_view(&secret).map_err(said)?)
    } else if case.get("read_secret").is_some() {
        let secret = ReadSecret::new(array(case, "read_secret"));
        read_body(&head.open_read(&secret).map_err(said)?)
    } else {
        let secret = TableSecret::new(array(case, "table_secret"));
        table_body(&head.open_table(&secret, &array(case, "table_head_key")).map_err(said)?)
    };
    Ok(json!({
        "public_key": hex(head.public_key()),
        "sequence": head.sequence(),
        "previous": head.previous().to_string(),
        "hash": head.hash().to_string(),
        "body": body,
    }))
}

fn heads_in_order(case: &Value) -> Result<Value, String> {
    let heads: Vec<Head> =
        blobs(case).iter().map(|bytes| Head::parse(bytes).map_err(said)).collect::<Result<_, _>>()?;
    let verdict = |current: &Head, new: &Head| match accept(Some(current), new) {
        Verdict::Accept { forked } => format!("accept, forked: {forked}"),
        Verdict::Unchanged => "unchanged".to_owned(),
        Verdict::Refuse(why) => format!("refuse: {why:?}"),
    };
    Ok(heads.iter().map(|current| heads.iter().map(|new| verdict(current, new)).collect::<Vec<_>>()).collect())
}

/// Adds a field that releases before did not have, where it is there.
fn with_some(mut value: Value, field: &str, found: Option<Value>) -> Value {
    if let Some(found) = found {
        value[field] = found;
    }
    value
}

pub(crate) fn counted(tree: &CountedTree) -> Value {
    json!({"count": tree.count, "tree": pointer(&tree.root)})
}

fn view_body(body: &ViewBody) -> Value {
    json!({
        "opening": hex(body.opening.expose()),
        "table_mask": hex(body.table_mask.expose()),
        "table": location(&body.table),
        "snapshot": pointer(&body.snapshot),
        "snapshot_id": body.snapshot_id.to_string(),
        "created_ms": body.created.as_unix_ms(),
    })
}

fn read_body(body: &ReadBody) -> Value {
    let says = json!({
        "read_opening": hex(body.read_opening.expose()),
        "table_secret": hex(body.table_secret.expose()),
        "mask_secret": hex(body.mask_secret.expose()),
        "table_head_key": hex(body.table_head_key),
        "table": location(&body.table),
        "snapshot": pointer(&body.snapshot),
        "snapshot_id": body.snapshot_id.to_string(),
        "created_ms": body.created.as_unix_ms(),
    });
    let says = with_some(says, "history", body.history.as_ref().map(counted));
    with_some(says, "owner_note", body.owner_note.as_ref().map(|note| json!(hex(note.as_bytes()))))
}

fn table_body(body: &TableBody) -> Value {
    json!({"table": location(&body.location)})
}

pub(crate) fn location(location: &TableLocation) -> Value {
    let holder =
        |holder: &Holder| json!({"root": holder.root.to_string(), "node": holder.node.as_ref().map(node_entry)});
    let segment = &location.segment;
    json!({
        "policy": segment.geometry().policy().to_string(),
        "payload_bytes": segment.geometry().payload_bytes(),
        "shard_bytes": segment.geometry().shard_bytes(),
        "nonce": hex(segment.nonce().as_bytes()),
        "holders": segment.holders().iter().map(holder).collect::<Vec<_>>(),
        "root_blob": pointer(&location.root()),
    })
}

fn pointer(pointer: &BlobPointer) -> Value {
    json!({
        "key": hex(pointer.key.expose()),
        "segment": if pointer.is_self() { "self".to_owned() } else { pointer.segment.to_string() },
        "offset": pointer.offset,
        "length": pointer.length,
    })
}

fn node_entry(node: &NodeEntry) -> Value {
    json!({"id": node.id().to_string(), "addresses": node.addresses().iter().map(ToString::to_string).collect::<Vec<_>>()})
}

pub(crate) fn node<T: TreeItem>(
    blob: &[u8],
    item: impl Fn(&T) -> Value,
    label: impl Fn(&T::Label) -> Value,
) -> Result<Value, String> {
    let node = Node::<T>::parse(blob, SELF_SEGMENT).map_err(said)?;
    assert_eq!(node.to_bytes(), blob, "one encoding for one node");
    Ok(match &node {
        Node::Leaf(items) => json!({"items": items.iter().map(item).collect::<Vec<_>>()}),
        Node::Inner { level, children } => {
            let child = |label: Value, at: &BlobPointer| json!({"label": label, "blob": pointer(at)});
            let children = children.iter().map(|found| child(label(&found.label), &found.pointer));
            json!({"level": level, "children": children.collect::<Vec<_>>()})
        }
    })
}

fn extent(extent: &Extent) -> Value {
    match extent {
        Extent::Chunk(at) => json!({"chunk": pointer(at)}),
        Extent::Compressed { pointer: at, plain_bytes } => {
            json!({"compressed": pointer(at), "plain_bytes": plain_bytes})
        }
        Extent::Hole { length_bytes } => json!({"hole": length_bytes}),
    }
}

fn totals(totals: &Totals) -> Value {
    json!({"files": totals.files, "folders": totals.folders, "symlinks": totals.symlinks, "bytes": totals.bytes})
}

fn folder(folder: &FolderEntry) -> Value {
    json!({"totals": totals(&folder.totals), "tree": pointer(&folder.tree)})
}

fn entry(entry: &Entry) -> Value {
    let kind = match &entry.kind {
        EntryKind::File(file) => json!({"file": {
            "size": file.size_bytes,
            "hash": file.hash.map(hex),
            "extents": match &file.extents {
                ExtentList::Inline(extents) => json!(extents.iter().map(extent).collect::<Vec<_>>()),
                ExtentList::Tree(root) => pointer(root),
            },
        }}),
        EntryKind::Folder(below) => json!({"folder": folder(below)}),
        EntryKind::Symlink { target } => json!({"symlink": target.escape_ascii().to_string()}),
    };
    json!({
        "name": entry.name.as_bytes().escape_ascii().to_string(),
        "mode": format!("{:o}", entry.mode),
        "modified_ns": entry.modified_ns,
        "kind": kind,
        "owner": entry.owner.map(|owner| [owner.user, owner.group]),
        "hard_link_group": entry.hard_link_group,
        "xattrs": entry.xattrs.iter().map(|(name, value)| [hex(name), hex(value)]).collect::<Vec<_>>(),
        "extensions": entry.extensions.iter().map(|(key, value)| json!([key, hex(value)])).collect::<Vec<_>>(),
    })
}

fn row(row: &SegmentRow) -> Value {
    let says = json!({
        "id": row.id().to_string(),
        "kind": format!("{:?}", row.kind()),
        "policy": row.geometry().policy().to_string(),
        "payload_bytes": row.geometry().payload_bytes(),
        "shard_bytes": row.geometry().shard_bytes(),
        "nonce": hex(row.nonce().as_bytes()),
        "roots": row.roots().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "nodes": row.nodes(),
    });
    with_some(says, "mask_key", row.mask_key().map(|key| json!(hex(key.expose()))))
}

fn forward(row: &ForwardRow) -> Value {
    json!({
        "segment": row.segment.to_string(),
        "offset": row.offset,
        "sealed_bytes": row.sealed_bytes,
        "to_segment": row.to_segment.to_string(),
        "to_offset": row.to_offset,
    })
}

fn leaving(leaving: &LeavingRow) -> Value {
    json!({"left_ms": leaving.left.as_unix_ms(), "row": row(&leaving.row)})
}

fn kept(row: &HistoryRow) -> Value {
    json!({
        "created_ms": row.created.as_unix_ms(),
        "id": row.id.to_string(),
        "root": pointer(&row.root),
        "files": row.files,
        "bytes": row.bytes,
        "message": row.message,
        "tags": row.tags,
    })
}

fn ledger(blob: &[u8]) -> Result<Value, String> {
    let ledger = Ledger::parse(blob).map_err(said)?;
    assert_eq!(ledger.to_bytes().as_deref(), Ok(blob), "one encoding for one ledger");
    let share = |share: &Share| {
        json!({
            "number": share.number,
            "path": share.path.escape_ascii().to_string(),
            "snapshot": share.snapshot.map(|id| id.to_string()),
            "created_ms": share.created.as_unix_ms(),
            "ended_ms": share.ended.map(|ended| ended.as_unix_ms()),
            "sequence": share.sequence,
        })
    };
    let value = json!({"next": ledger.next, "shares": ledger.shares.iter().map(share).collect::<Vec<_>>()});
    let stewards: Vec<Value> = ledger.stewards.iter().map(stewards::steward_of_ledger).collect();
    Ok(with_some(value, "stewards", (!stewards.is_empty()).then(|| json!(stewards))))
}

fn owner_note(case: &Value) -> Result<Value, String> {
    let sealed = SealedNote::parse(&bytes(case, "bytes")).map_err(said)?;
    let note = sealed.open(&OwnerNoteKey::new(array(case, "note_key"))).map_err(said)?;
    let says = json!({"epoch": note.epoch, "name": note.name, "ledger": note.ledger.as_ref().map(pointer)});
    let sealing = note.sealing.map(|sealing| json!({"epoch": sealing.epoch, "complete": sealing.complete}));
    Ok(with_some(says, "sealing", sealing))
}

fn dataset_root(text: &str) -> Result<Value, String> {
    let root: DatasetRoot = text.parse().map_err(said)?;
    assert_eq!(root.to_string(), text, "one text for one root");
    Ok(json!({"salt": hex(root.salt()), "hash": hex(root.hash())}))
}

fn dataset_root_entries(case: &Value) -> Result<Value, String> {
    let mut hasher = DatasetRootHasher::new(array(case, "salt"));
    for entry in case["entries"].as_array().expect("a list of entries") {
        let mode = u32::try_from(entry["mode"].as_u64().expect("a number")).expect("32 bits");
        let what = if entry.get("target").is_some() {
            RootEntry::Symlink { target: text(entry, "target").as_bytes() }
        } else if entry.get("hash").is_some() {
            RootEntry::File { size_bytes: entry["size"].as_u64().expect("a number"), hash: array(entry, "hash") }
        } else {
            RootEntry::Folder
        };
        hasher.entry(text(entry, "path").as_bytes(), mode, what).map_err(said)?;
    }
    Ok(json!({"root": hasher.finish().to_string()}))
}

fn receipt(receipt: &StoredReceipt) -> Value {
    json!({"root": receipt.root.to_string(), "node": receipt.node.to_string(), "signed": hex(&receipt.signed)})
}

fn snapshot(blob: &[u8]) -> Result<Value, String> {
    let snapshot = Snapshot::parse(blob, SELF_SEGMENT).map_err(said)?;
    assert_eq!(snapshot.to_bytes().as_deref(), Ok(blob), "one encoding for one snapshot");
    let parent =
        |parent: &dolmen_proto::manifest::Parent| json!({"id": parent.id.to_string(), "root": pointer(&parent.root)});
    let compressed = snapshot.needs.contains(Needs::COMPRESSED_CHUNKS).then(|| json!(["compressed chunks"]));
    let says = json!({
        "created_ms": snapshot.created.as_unix_ms(),
        "message": snapshot.message,
        "parent": snapshot.parent.as_ref().map(parent),
        "salt": hex(snapshot.salt),
        "root": folder(&snapshot.root),
    });
    Ok(with_some(says, "needs", compressed))
}

fn table(blob: &[u8]) -> Result<Value, String> {
    let table = TableRoot::parse(blob, SELF_SEGMENT).map_err(said)?;
    assert_eq!(table.to_bytes().as_deref(), Ok(blob), "one encoding for one table");
    let rows = match &table.rows {
        Rows::Inline(rows) => {
            for row in rows {
                table.holders(row).map_err(said)?;
            }
            json!(rows.iter().map(row).collect::<Vec<_>>())
        }
        Rows::Tree { count, root } => json!({"count": count, "tree": pointer(root)}),
    };
    let says = json!({
        "policy": table.policy.to_string(),
        "nodes": table.nodes.iter().map(node_entry).collect::<Vec<_>>(),
        "stewards": table.stewards.iter().map(hex).collect::<Vec<_>>(),
        "rows": rows,
        "further": table.further.iter().map(row).collect::<Vec<_>>(),
        "receipts": table.receipts.as_ref().map(pointer),
    });
    let says = with_some(says, "forwards", table.forwards.as_ref().map(counted));
    Ok(with_some(says, "leaving", table.leaving.as_ref().map(counted)))
}

fn anywhere() -> BlobPointer {
    let key = dolmen_proto::seal::ChunkKey::new([1; 32]);
    BlobPointer { key, segment: SegmentId::new([2; 32]), offset: 0, length: 1 }
}

fn extent_walk(case: &Value) -> Result<Value, String> {
    let mut walk = TreeWalk::<Extent>::counted(anywhere(), case["count"].as_u64().expect("a number"));
    let mut extents = Vec::new();
    for blob in blobs(case) {
        extents.extend(walk.supply(&blob).map_err(said)?.iter().map(extent));
    }
    assert_eq!(walk.wanted(), None, "the blobs are the whole tree");
    Ok(json!(extents))
}

fn folder_walk(case: &Value) -> Result<Value, String> {
    let number = |field: &str| case["totals"][field].as_u64().expect("a number");
    let totals = Totals {
        files: number("files"),
        folders: number("folders"),
        symlinks: number("symlinks"),
        bytes: number("bytes"),
    };
    let mut walk = FolderWalk::new(&FolderEntry { totals, tree: anywhere() });
    let mut entries = Vec::new();
    for blob in blobs(case) {
        entries.extend(walk.supply(&blob).map_err(said)?.iter().map(entry));
    }
    Ok(json!(entries))
}
