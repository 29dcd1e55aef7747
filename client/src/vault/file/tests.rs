//! The vault's file: what opens it, what does not, and what is refused before any work is done.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::vault::keychain::MemoryKeychain;

const WORDS: &str = "void come effort suffer camp survey warrior heavy shoot primary clutch crush open amazing screen patrol group space point ten exist slush involve unfold";

fn words() -> Words {
    Words::parse(WORDS).unwrap()
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text).unwrap()
}

/// A folder with the file of a vault.
struct World {
    _folder: tempfile::TempDir,
    path: PathBuf,
    keychain: MemoryKeychain,
}

impl World {
    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join("below/vault.json"), _folder: folder, keychain: MemoryKeychain::default() }
    }

    fn sealed() -> Self {
        let world = Self::empty();
        VaultFile::create_sealed(&world.path, &words(), &passphrase("open"), Cost::LEAST).unwrap();
        world
    }

    fn unlock(&self, text: &str) -> Result<Words, ClientError> {
        VaultFile::read(&self.path)?.unlock(Some(&passphrase(text)), &self.keychain)
    }

    /// The file with one value changed.
    fn changed(&self, change: impl FnOnce(&mut serde_json::Value)) -> Result<Words, ClientError> {
        let text = fs::read(&self.path).unwrap();
        let mut value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        change(&mut value);
        let file = VaultFile::parse(&self.path, &serde_json::to_vec(&value).unwrap())?;
        file.unlock(Some(&passphrase("open")), &self.keychain)
    }
}

#[test]
fn the_right_passphrase_opens_it_and_no_other() {
    let world = World::sealed();
    assert_eq!(world.unlock("open").unwrap().entropy(), words().entropy());
    let error = world.unlock("shut").unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Refused, 6));
    let file = VaultFile::read(&world.path).unwrap();
    assert!(file.wants_passphrase());
    assert_eq!(file.unlock(None, &world.keychain).unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(fs::metadata(&world.path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&world.path).unwrap();
    assert!(!text.contains(&to_hex(words().entropy())), "the secret does not stand there");
    assert_eq!(fs::read_dir(world.path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_file_is_never_overwritten() {
    let world = World::sealed();
    let before = fs::read(&world.path).unwrap();
    for error in [
        VaultFile::create_sealed(&world.path, &Words::draw().unwrap(), &passphrase("x"), Cost::LEAST).unwrap_err(),
        VaultFile::create_in_keychain(&world.path, &Words::draw().unwrap(), &world.keychain).unwrap_err(),
        write_new(&world.path, b"raced").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.why().contains("never overwritten"), "{error}");
    }
    assert_eq!(fs::read(&world.path).unwrap(), before);
}

#[test]
fn another_passphrase_takes_the_place_of_the_old_one() {
    let world = World::sealed();
    let file = VaultFile::read(&world.path).unwrap();
    let change = |old: &str, new: &str| {
        file.change_passphrase(Some(&passphrase(old)), &passphrase(new), Cost::LEAST, &world.keychain)
    };
    assert_eq!(change("wrong", "new").unwrap_err().kind(), ErrorKind::Refused);
    assert!(world.unlock("open").is_ok(), "a failed change changes nothing");
    change("open", "new").unwrap();
    assert_eq!(world.unlock("open").unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(world.unlock("new").unwrap().entropy(), words().entropy());
    assert_eq!(fs::metadata(&world.path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_keychain_keeps_what_the_file_does_not() {
    let world = World::empty();
    VaultFile::create_in_keychain(&world.path, &words(), &world.keychain).unwrap();
    let file = VaultFile::read(&world.path).unwrap();
    assert!(!file.wants_passphrase());
    assert_eq!(file.unlock(None, &world.keychain).unwrap().entropy(), words().entropy());
    assert_eq!(file.unlock(None, &MemoryKeychain::default()).unwrap_err().kind(), ErrorKind::Refused);
    let account = Fingerprint::of(&words().secret()).to_hex();
    for wrong in [&[1; 32][..], &[1; 5]] {
        world.keychain.store(&account, wrong).unwrap();
        assert!(file.unlock(None, &world.keychain).is_err());
    }
    world.keychain.store(&account, words().entropy()).unwrap();
    // A change of passphrase moves the secret into the file.
    file.change_passphrase(None, &passphrase("sealed now"), Cost::LEAST, &world.keychain).unwrap();
    assert!(world.unlock("sealed now").is_ok());
}

#[test]
fn nothing_of_a_file_can_be_changed() {
    let world = World::sealed();
    assert!(world.changed(|_| ()).is_ok());
    for field in ["salt", "nonce", "sealed"] {
        let flip = |value: &mut serde_json::Value| {
            let text = value["lock"][field].as_str().unwrap();
            let first = if text.starts_with('0') { "1" } else { "0" };
            value["lock"][field] = format!("{first}{}", &text[1..]).into();
        };
        assert_eq!(world.changed(flip).unwrap_err().kind(), ErrorKind::Refused, "{field}");
        assert_eq!(world.changed(|value| value["lock"][field] = "00".into()).unwrap_err().kind(), ErrorKind::Local);
    }
    for (field, number) in [("memory_kib", 9), ("passes", 2)] {
        let error = world.changed(|value| value["lock"][field] = number.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{field}");
    }
    let other = Fingerprint::of(&Words::draw().unwrap().secret()).to_hex();
    assert!(world.changed(|value| value["fingerprint"] = other.into()).is_err());
}

#[test]
fn a_file_cannot_make_us_work_for_hours_or_fill_memory() {
    let world = World::sealed();
    for (memory, passes, lanes) in [
        (u32::MAX, 1, 1),
        (Cost::MEMORY_MAX_KIB + 1, 1, 1),
        (Cost::MEMORY_MAX_KIB, 9, 1),
        (64, u32::MAX, 1),
        (64, 1, u32::MAX),
        (64, 0, 1),
        (64, 1, 0),
        (7, 1, 1),
    ] {
        let error = world.changed(|value| {
            value["lock"]["memory_kib"] = memory.into();
            value["lock"]["passes"] = passes.into();
            value["lock"]["lanes"] = lanes.into();
        });
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.what().contains("more work"), "{error}");
    }
    assert!(Cost::DEFAULT.is_bounded() && Cost::LEAST.is_bounded());
}

#[test]
fn what_is_no_vault_is_named_so() {
    let world = World::empty();
    assert_eq!(VaultFile::read(&world.path).err().unwrap().kind(), ErrorKind::NotFound);
    let parse = |text: &str| VaultFile::parse(&world.path, text.as_bytes()).err().unwrap();
    for text in ["", "{}", "[]", "{\"format\":\"other\",\"version\":1}", "{\"format\":\"dolmen vault\",\"version\":1}"]
    {
        assert_eq!(parse(text).kind(), ErrorKind::Local, "{text}");
    }
    let newer = parse("{\"format\":\"dolmen vault\",\"version\":2,\"something\":\"else\"}");
    assert!(newer.kind() == ErrorKind::Refused && newer.why().contains("version 2"), "{newer}");
    fs::create_dir_all(world.path.parent().unwrap()).unwrap();
    fs::write(&world.path, vec![b' '; 20_000]).unwrap();
    assert!(VaultFile::read(&world.path).err().unwrap().why().contains("larger"));
}

/// A file that an earlier release wrote stays readable.
#[test]
fn a_file_of_version_one_stays_readable() {
    let text = include_str!("version_one.json");
    let file = VaultFile::parse(Path::new("version_one.json"), text.as_bytes()).unwrap();
    let opened = file.unlock(Some(&passphrase("correct horse battery staple")), &MemoryKeychain::default()).unwrap();
    assert_eq!(opened.entropy(), words().entropy());
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = VaultFile::parse(Path::new("x"), &text);
    }
}
