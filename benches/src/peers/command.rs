//! Any store that commands can talk to: one command to put, one to get.
//!
//! Decides how command lines are split and what failure is (an exit status other than 0). There is no shell in between, so
//! nothing in a path is ever taken for syntax.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Peer, PeerError, PeerName, local};

/// How much of what a command printed is kept for its error: the end.
const OUTPUT_MAX_BYTES: u64 = 4_096;

/// Commands that put, get and perhaps remove, with places for `{source}`, `{name}` and `{target}`.
#[derive(Debug, Clone)]
pub struct CommandPair {
    put: Vec<String>,
    get: Vec<String>,
    remove: Option<Vec<String>>,
}

impl CommandPair {
    /// Splits command lines as a shell does, quotes included. `put` needs `{source}` and `{name}`, `get` needs `{name}`
    /// and `{target}`, `remove` needs `{name}`; without it nothing is removed.
    ///
    /// # Errors
    /// [`PeerError::CommandLine`] where quotes do not match, or a place is missing or makes no sense.
    pub fn new(put: &str, get: &str, remove: Option<&str>) -> Result<Self, PeerError> {
        Ok(Self {
            put: split(put, &["{source}", "{name}"])?,
            get: split(get, &["{name}", "{target}"])?,
            remove: remove.map(|command| split(command, &["{name}"])).transpose()?,
        })
    }
}

impl Peer for CommandPair {
    fn put(&self, source: &Path, name: &PeerName) -> Result<(), PeerError> {
        run(&self.put, &[("{source}", utf8(source)?), ("{name}", name.as_str())])
    }

    fn get(&self, name: &PeerName, target: &Path) -> Result<(), PeerError> {
        run(&self.get, &[("{name}", name.as_str()), ("{target}", utf8(target)?)])
    }

    fn remove(&self, name: &PeerName) -> Result<(), PeerError> {
        self.remove.as_ref().map_or(Ok(()), |command| run(command, &[("{name}", name.as_str())]))
    }
}

fn split(command: &str, places: &[&str]) -> Result<Vec<String>, PeerError> {
    let wrong = |why: String| PeerError::CommandLine { command: command.to_owned(), why };
    let words = shell_words::split(command).map_err(|error| wrong(error.to_string()))?;
    if words.is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    for place in ["{source}", "{name}", "{target}"] {
        let given = words.iter().any(|word| word.contains(place));
        if places.contains(&place) && !given {
            return Err(wrong(format!("{place} is missing: write it where it belongs")));
        }
        if given && !places.contains(&place) {
            return Err(wrong(format!("there is no {place} here")));
        }
    }
    Ok(words)
}

fn utf8(path: &Path) -> Result<&str, PeerError> {
    let not_text = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "its name is not UTF-8");
    path.to_str().ok_or_else(|| local("name", path)(not_text()))
}

fn run(command: &[String], values: &[(&str, &str)]) -> Result<(), PeerError> {
    let words: Vec<String> = command.iter().map(|word| fill(word, values)).collect();
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let here = Path::new(".");
    // A file and not a pipe: a command may leave a server behind that holds on to it.
    let mut output = tempfile::tempfile().map_err(local("make a temporary file in", here))?;
    let standard = || -> Result<Stdio, PeerError> {
        Ok(output.try_clone().map_err(local("share a temporary file in", here))?.into())
    };
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(standard()?)
        .stderr(standard()?)
        .status()
        .map_err(|source| PeerError::CommandStart { program: program.clone(), source })?;
    if status.success() {
        return Ok(());
    }
    let output = ending(&mut output).unwrap_or_else(|error| format!("(its output cannot be read: {error})"));
    Err(PeerError::CommandFailed { command: shell_words::join(&words), status, output })
}

/// Puts values into their places; what a value contains is never taken for a place.
fn fill(word: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(word.len());
    let mut rest = word;
    'next: while let Some(character) = rest.chars().next() {
        for (place, value) in values {
            if let Some(after) = rest.strip_prefix(place) {
                filled.push_str(value);
                rest = after;
                continue 'next;
            }
        }
        filled.push(character);
        rest = &rest[character.len_utf8()..];
    }
    filled
}

fn ending(output: &mut File) -> std::io::Result<String> {
    let bytes = output.seek(SeekFrom::End(0))?;
    output.seek(SeekFrom::Start(bytes.saturating_sub(OUTPUT_MAX_BYTES)))?;
    let mut kept = Vec::new();
    output.take(OUTPUT_MAX_BYTES).read_to_end(&mut kept)?;
    let text = String::from_utf8_lossy(&kept);
    Ok(if text.trim().is_empty() { "nothing".to_owned() } else { text.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::{assert_same_files, plant};
    use super::*;

    #[test]
    fn any_pair_of_commands_is_a_store() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("the source's {name}");
        plant(&source);
        let store = folder.path().join("a store");
        std::fs::create_dir(&store).expect("a folder");
        let store = store.to_str().expect("UTF-8");
        let peer = CommandPair::new(
            &format!("cp -r {{source}} '{store}/{{name}}'"),
            &format!("cp -r \"{store}/{{name}}\" {{target}}"),
            Some(&format!("rm -r '{store}'/{{name}}")),
        )
        .expect("three commands");
        let name: PeerName = "tree".parse().expect("a name");
        peer.put(&source, &name).expect("stored");
        let back = folder.path().join("back");
        peer.get(&name, &back).expect("fetched");
        assert_same_files(&source, &back);
        peer.remove(&name).expect("removed");
        match peer.get(&name, &folder.path().join("again")) {
            Err(PeerError::CommandFailed { command, status, output }) => {
                assert!(command.starts_with("cp -r '") && command.contains("a store/tree'"), "{command}");
                assert_eq!(status.code(), Some(1));
                assert!(output.contains("No such file"), "{output}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_end_of_what_a_command_says_is_kept() {
        let script = "sh -c 'seq 100000; echo {source} {name} is full >&2; exit 3'";
        let peer = CommandPair::new(script, "true {name} {target}", None).expect("two commands");
        let name: PeerName = "x".parse().expect("a name");
        match peer.put(Path::new("/a/file"), &name) {
            Err(PeerError::CommandFailed { status, output, .. }) => {
                assert_eq!(status.code(), Some(3));
                assert!(output.ends_with("100000\n/a/file x is full"), "{output}");
                assert!(output.len() <= 4_096);
            }
            other => panic!("{other:?}"),
        }
        peer.remove(&name).expect("without a command nothing is removed");
    }

    #[test]
    fn command_lines_that_cannot_work_are_refused() {
        for (put, get) in [
            ("", "get {name} {target}"),
            ("put {source}", "get {name} {target}"),
            ("put {source} {name}", "get {name}"),
            ("put {source} {name} {target}", "get {name} {target}"),
            ("put '{source} {name}", "get {name} {target}"),
        ] {
            let refused = CommandPair::new(put, get, None);
            assert!(matches!(refused, Err(PeerError::CommandLine { .. })), "{put} / {get}");
        }
        let peer = CommandPair::new("no-such-program {source} {name}", "true {name} {target}", None).expect("commands");
        let missing = peer.put(Path::new("/a"), &"x".parse().expect("a name"));
        assert!(matches!(missing, Err(PeerError::CommandStart { program, .. }) if program == "no-such-program"));
    }
}
