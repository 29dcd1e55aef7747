//! Whose disk a folder is, and the header that starts every volume on it.
//!
//! Decides when a folder counts as a data folder of this node. A folder without a marker is an unmounted disk: nothing
//! here ever makes one but [`initialise`], which the operator asks for.

use std::io;

use dolmen_proto::ids::NodeId;

use super::DiskId;
use super::record::{CHECK_BYTES, bytes_32, u64_at};
use crate::disk::{Disk, DiskFile};

/// Name of the marker file.
pub(crate) const MARKER_FILE: &str = "dolmen-disk";
const MARKER_MAGIC: [u8; 8] = *b"DOLMDISK";
const MARKER_CHECKED_BYTES: usize = 80;
const MARKER_COPY_BYTES: usize = 512;
const VOLUME_MAGIC: [u8; 8] = *b"DOLMVOLM";
const VOLUME_CHECKED_BYTES: usize = 112;
const VERSION: u8 = 1;
/// Where the second copy of a marker or of a volume header stands: far enough to lie in another sector.
const SECOND_COPY: usize = 4096;
/// Bytes of a volume before its first record.
pub(crate) const VOLUME_START: u64 = 8192;
const VOLUME_SUFFIX: &str = ".volume";

const DISK_ID_CONTEXT: &str = "dolmen 2026 disk id v1";
const VOLUME_SALT_CONTEXT: &str = "dolmen 2026 volume salt v1";

/// What a marker file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) node: NodeId,
    pub(crate) secret: [u8; 32],
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    blake3::hash(bytes).as_bytes()[..CHECK_BYTES].try_into().expect("16 of 32 bytes")
}

impl Marker {
    /// The folder's identifier.
    pub(crate) fn disk_id(&self) -> DiskId {
        let id = blake3::derive_key(DISK_ID_CONTEXT, &self.secret);
        DiskId(id[..16].try_into().expect("16 of 32 bytes"))
    }

    /// The key of all checks in one volume.
    pub(crate) fn salt(&self, volume: u64) -> [u8; 32] {
        let mut material = [0; 40];
        material[..32].copy_from_slice(&self.secret);
        material[32..].copy_from_slice(&volume.to_le_bytes());
        blake3::derive_key(VOLUME_SALT_CONTEXT, &material)
    }

    fn encode(&self) -> Vec<u8> {
        let mut copy = [0; MARKER_COPY_BYTES];
        copy[..8].copy_from_slice(&MARKER_MAGIC);
        copy[8] = VERSION;
        copy[16..48].copy_from_slice(self.node.as_bytes());
        copy[48..80].copy_from_slice(&self.secret);
        let check = check(&copy[..MARKER_CHECKED_BYTES]);
        copy[80..96].copy_from_slice(&check);
        let mut bytes = vec![0; SECOND_COPY + MARKER_COPY_BYTES];
        bytes[..MARKER_COPY_BYTES].copy_from_slice(&copy);
        bytes[SECOND_COPY..].copy_from_slice(&copy);
        bytes
    }

    fn decode_copy(bytes: &[u8]) -> Option<Self> {
        let copy = bytes.get(..MARKER_COPY_BYTES)?;
        let valid = copy[..8] == MARKER_MAGIC
            && copy[8] == VERSION
            && copy[9..16] == [0; 7]
            && copy[80..96] == check(&copy[..MARKER_CHECKED_BYTES]);
        valid.then(|| Self { node: NodeId::new(bytes_32(copy, 16)), secret: bytes_32(copy, 48) })
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Self::decode_copy(bytes).or_else(|| Self::decode_copy(bytes.get(SECOND_COPY..)?))
    }

    /// The header area of a volume.
    pub(crate) fn volume_header(&self, volume: u64) -> Vec<u8> {
        let mut copy = [0; 128];
        copy[..8].copy_from_slice(&VOLUME_MAGIC);
        copy[8] = VERSION;
        copy[16..24].copy_from_slice(&volume.to_le_bytes());
        copy[24..56].copy_from_slice(self.node.as_bytes());
        copy[56..72].copy_from_slice(&self.disk_id().0);
        copy[72..104].copy_from_slice(&self.salt(volume));
        let check = check(&copy[..VOLUME_CHECKED_BYTES]);
        copy[112..].copy_from_slice(&check);
        let mut bytes = vec![0; SECOND_COPY * 2];
        bytes[..128].copy_from_slice(&copy);
        bytes[SECOND_COPY..SECOND_COPY + 128].copy_from_slice(&copy);
        bytes
    }

    /// Whether a volume's header area names this disk and that number.
    pub(crate) fn owns_volume(&self, area: &[u8], volume: u64) -> bool {
        [0, SECOND_COPY].into_iter().filter_map(|at| area.get(at..at + 128)).any(|copy| {
            copy[..8] == VOLUME_MAGIC
                && copy[8] == VERSION
                && copy[112..] == check(&copy[..VOLUME_CHECKED_BYTES])
                && u64_at(copy, 16) == volume
                && copy[24..56] == *self.node.as_bytes()
                && copy[56..72] == self.disk_id().0
        })
    }
}

/// The name of a volume's file.
pub(crate) fn volume_name(number: u64) -> String {
    format!("{number:016x}{VOLUME_SUFFIX}")
}

/// The number in a volume's file name.
pub(crate) fn volume_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(VOLUME_SUFFIX)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (volume_name(number) == name).then_some(number)
}

/// Reads the marker; `None` where there is no such file.
///
/// # Errors
/// `InvalidData` when both copies are damaged, or whatever the disk reports.
pub(crate) fn read_marker<D: Disk>(disk: &D) -> io::Result<Option<Marker>> {
    let file = match disk.open(MARKER_FILE, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; SECOND_COPY + MARKER_COPY_BYTES];
    let count = file.read_at(&mut bytes, 0)?;
    match Marker::decode(&bytes[..count]) {
        Some(marker) => Ok(Some(marker)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the marker file is damaged")),
    }
}

/// Marks an empty folder as a data folder of `node`, durably. `secret` is 32 fresh random bytes: the folder's identifier
/// and the keys of its checks derive from it.
///
/// # Errors
/// `AlreadyExists` when there is a valid marker or any volume; else whatever the disk reports.
pub fn initialise<D: Disk>(disk: &D, node: NodeId, secret: [u8; 32]) -> io::Result<DiskId> {
    let marker = Marker { node, secret };
    let refuse = |why| Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    let names = disk.list()?;
    if names.iter().any(|name| volume_number(name).is_some()) {
        return refuse("the folder holds volumes");
    }
    if names.iter().any(|name| name == MARKER_FILE) {
        match read_marker(disk) {
            Ok(Some(_)) => return refuse("the folder is a data folder already"),
            Ok(None) => {}
            // A crash while the first marker was written leaves a torn one beside no volume at all.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => disk.remove(MARKER_FILE)?,
            Err(error) => return Err(error),
        }
    }
    let file = disk.open(MARKER_FILE, true)?;
    file.write_at(&marker.encode(), 0)?;
    file.sync()?;
    disk.sync_folder()?;
    Ok(marker.disk_id())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::disk::FileDisk;

    fn marker() -> Marker {
        Marker { node: NodeId::new([1; 32]), secret: [2; 32] }
    }

    #[test]
    fn one_damaged_copy_is_no_loss_and_two_are_named() {
        let bytes = marker().encode();
        for position in [0, 8, 20, 60, 90] {
            let mut damaged = bytes.clone();
            damaged[position] ^= 4;
            assert_eq!(Marker::decode(&damaged), Some(marker()), "first copy, byte {position}");
            damaged[SECOND_COPY + position] ^= 4;
            assert_eq!(Marker::decode(&damaged), None, "both copies, byte {position}");
        }
        for length in [0, 1, 511, 512, 4096, 4607] {
            let _ = Marker::decode(&bytes[..length]);
        }
    }

    #[test]
    fn a_volume_header_names_disk_and_number() {
        let area = marker().volume_header(3);
        assert_eq!(area.len() as u64, VOLUME_START);
        assert!(marker().owns_volume(&area, 3));
        assert!(!marker().owns_volume(&area, 4));
        assert!(!Marker { secret: [9; 32], ..marker() }.owns_volume(&area, 3));
        let mut damaged = area;
        damaged[17] ^= 1;
        assert!(marker().owns_volume(&damaged, 3));
        damaged[SECOND_COPY + 17] ^= 1;
        assert!(!marker().owns_volume(&damaged, 3));
    }

    #[test]
    fn only_names_that_we_would_write_are_volumes() {
        assert_eq!(volume_number(&volume_name(0xabc)), Some(0xabc));
        for name in ["abc.volume", "0000000000000ABC.volume", "+000000000000abc.volume", "lock", ".volume"] {
            assert_eq!(volume_number(name), None, "{name}");
        }
    }

    #[test]
    fn a_folder_is_initialised_once() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(folder.path()).unwrap();
        assert_eq!(read_marker(&disk).unwrap(), None);
        let id = initialise(&disk, NodeId::new([1; 32]), [2; 32]).unwrap();
        assert_eq!(id, marker().disk_id());
        assert_eq!(read_marker(&disk).unwrap(), Some(marker()));
        assert_eq!(initialise(&disk, NodeId::new([1; 32]), [3; 32]).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_torn_first_marker_is_replaced_but_never_beside_volumes() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(MARKER_FILE), b"DOLM").unwrap();
        let disk = FileDisk::open(folder.path()).unwrap();
        assert_eq!(read_marker(&disk).unwrap_err().kind(), io::ErrorKind::InvalidData);
        std::fs::write(folder.path().join(volume_name(1)), b"").unwrap();
        assert_eq!(initialise(&disk, NodeId::new([1; 32]), [3; 32]).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::fs::remove_file(folder.path().join(volume_name(1))).unwrap();
        initialise(&disk, NodeId::new([1; 32]), [2; 32]).unwrap();
        assert_eq!(read_marker(&disk).unwrap(), Some(marker()));
    }
}
