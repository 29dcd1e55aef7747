//! Tests of node.toml: what is refused, and that the template is what it says.

use super::*;

const MINIMAL: &str = "data = [\"disk\"]\nlisten = \"127.0.0.1:4000\"\n";

fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse(text, Path::new("/etc/dolmen/node.toml"))
}

fn refusal(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

#[test]
fn a_minimal_file_gets_the_defaults() {
    let config = parse(MINIMAL).expect("valid");
    assert_eq!(config.data, [PathBuf::from("/etc/dolmen/disk")]);
    assert_eq!(config.key_file, PathBuf::from("/etc/dolmen/node.key"));
    assert_eq!(config.control.port(), 4001);
    assert_eq!((config.quota, config.open_quota), (None, None));
    assert_eq!(config.accepting, AcceptingMode::All);
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_what_to_do() {
    let message = refusal(&format!("{MINIMAL}quotta = \"5GB\"\n"));
    assert!(message.contains("line 3") && message.contains("quotta"), "{message}");
    assert!(message.contains("correct or remove") && message.lines().count() <= 3, "{message}");
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    for (line, key) in [
        ("quota = \"5 parsecs\"", "unit"),
        ("quota = true", "size"),
        ("quota = \"5GB\"\nopen_quota = \"6GB\"", "open_quota"),
        ("open_quota = \"5GB\"\nopen_quota_per_subnet = \"6GB\"", "open_quota_per_subnet"),
        ("control = \"127.0.0.1:4000\"", "control"),
        ("region = \"EU DE\"", "region"),
        ("announce = \"a:b:c\"", "announce"),
        ("announce = \"host:99999\"", "announce"),
        ("memory = \"1MB\"", "memory"),
        ("egress = \"1kB\"", "egress"),
        ("datagram_bytes = 1000", "datagram_bytes"),
        ("[[schedule]]\nfrom = \"25:00\"\nto = \"06:00\"", "schedule"),
        ("[[schedule]]\nfrom = \"08:00\"\nto = \"06:00\"\ningress = \"9\"", "schedule"),
        ("scrub_rate = \"0\"", "scrub_rate"),
        ("audit_share_percent = 0", "audit_share_percent"),
        ("accepting = \"maybe\"", "maybe"),
        ("[operator]\nkey = \"00\"\nsignature = \"00\"", "operator"),
        ("[[allow]]\naccount = \"zz\"\nquota = \"1GB\"", "allow"),
    ] {
        let message = refusal(&format!("{MINIMAL}{line}\n"));
        assert!(message.contains(key), "{line}: {message}");
    }
    let account = "ab".repeat(32);
    let twice = format!("[[allow]]\naccount = \"{account}\"\nquota = \"1GB\"\n");
    assert!(refusal(&format!("{MINIMAL}{twice}{twice}")).contains("twice"));
    assert!(refusal("data = []\nlisten = \"127.0.0.1:1\"").contains("data"));
    assert!(refusal("data = [\"a\", \"a\"]\nlisten = \"127.0.0.1:1\"").contains("twice"));
}

#[test]
fn allow_list_and_operator_are_read() {
    let text = format!(
        "{MINIMAL}[operator]\nkey = \"{}\"\nsignature = \"{}\"\n[[allow]]\naccount = \"{}\"\nquota = \"1TB\"\n",
        "01".repeat(32),
        "02".repeat(64),
        "03".repeat(32)
    );
    let config = parse(&text).expect("valid");
    assert_eq!(config.operator.map(|claim| claim.signature), Some([2; 64]));
    let quota = ByteSize::new(1_000_000_000_000);
    assert_eq!(config.allow, [AllowedAccount { account: AccountId::new([3; 32]), quota }]);
}

#[test]
fn announced_hosts_are_read_in_all_their_shapes() {
    for (text, host, port) in [
        ("node.example.org", "node.example.org", None),
        ("node.example.org:5000", "node.example.org", Some(5000)),
        ("192.0.2.1", "192.0.2.1", None),
        ("192.0.2.1:5000", "192.0.2.1", Some(5000)),
        ("2001:db8::1", "2001:db8::1", None),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("[2001:db8::1]:5000", "2001:db8::1", Some(5000)),
    ] {
        assert_eq!(
            text.parse::<Announce>(),
            Ok(Announce { host: host.to_owned(), port, control_port: None }),
            "{text}"
        );
    }
}

fn options() -> InitOptions {
    InitOptions {
        data: vec![PathBuf::from("/srv/\"odd\" disk"), PathBuf::from("b")],
        quota: Some(ByteSize::new(500_000_000_000)),
        region: Some("eu-de".to_owned()),
        bootstrap: vec!["/ip4/192.0.2.1/udp/4712/quic-v1".to_owned()],
        ..InitOptions::default()
    }
}

#[test]
fn init_writes_what_was_asked_for_and_never_overwrites() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("new/node.toml");
    let config = write_new(&path, &options()).expect("written");
    assert_eq!(NodeConfig::load(&path).expect("valid"), config);
    assert_eq!(config.data, [PathBuf::from("/srv/\"odd\" disk"), folder.path().join("new/b")]);
    assert_eq!(config.quota, Some(ByteSize::new(500_000_000_000)));
    assert_eq!(config.listen, DEFAULT_LISTEN);
    assert_eq!(config.control.port(), DEFAULT_LISTEN.port() + 1);
    assert!(matches!(write_new(&path, &InitOptions::default()), Err(ConfigError::Invalid { .. })));
    let before = std::fs::read(&path).expect("there");
    assert!(matches!(write_new(&path, &options()), Err(ConfigError::Exists(_))));
    assert_eq!(std::fs::read(&path).expect("there"), before);
}

#[test]
fn every_commented_example_is_valid_when_uncommented() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("node.toml");
    write_new(&path, &options()).expect("written");
    let text = std::fs::read_to_string(&path).expect("there");
    let examples = text
        .lines()
        .filter(|line| line.starts_with('#') && line.contains(" = ") && line.as_bytes()[1] != b' ')
        .filter(|line| !line.contains("hexadecimal") && !line.contains("1TB"));
    let mut seen = 0;
    for example in examples {
        let whole = format!("{MINIMAL}{}\n", &example[1..]);
        assert!(parse(&whole).is_ok(), "{example}: {:?}", parse(&whole));
        seen += 1;
    }
    assert!(seen >= 8, "only {seen} examples");
}

#[test]
fn folders_are_added_and_removed_without_touching_the_rest() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("node.toml");
    write_new(&path, &options()).expect("written");
    let before = std::fs::read_to_string(&path).expect("there");
    let added = add_data_folder(&path, Path::new("/srv/c")).expect("added");
    assert_eq!(added.data.len(), 3);
    assert!(add_data_folder(&path, Path::new("/srv/c")).is_err(), "twice");
    let removed = remove_data_folder(&path, Path::new("/srv/c")).expect("removed");
    assert_eq!(removed.data.len(), 2);
    assert_eq!(std::fs::read_to_string(&path).expect("there"), before);
    assert!(remove_data_folder(&path, Path::new("/srv/never")).is_err());
    remove_data_folder(&path, Path::new("b")).expect("removed");
    assert!(remove_data_folder(&path, Path::new("/srv/\"odd\" disk")).is_err(), "the last one stays");
}
