//! Changing the list of data folders in a node.toml without touching anything else in it.
//!
//! Decides how the file is rewritten: only the value of `data` is replaced, comments stay, and the file is
//! replaced whole or not at all. Never decides whether a folder may go: that is `node disk`'s.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{ConfigError, File, NodeConfig, read_text, syntax_error};

/// Adds a data folder to the file; it is used from the next start on.
///
/// # Errors
/// [`ConfigError`] when the file is unreadable or invalid, or already names the folder.
pub fn add_data_folder(path: &Path, folder: &Path) -> Result<NodeConfig, ConfigError> {
    edit(path, |folders| folders.push(folder.to_owned()))
}

/// Takes a data folder out of the file, as it is written there or as an equal path.
///
/// # Errors
/// [`ConfigError`] when the file is unreadable or invalid, does not name the folder, or names no other.
pub fn remove_data_folder(path: &Path, folder: &Path) -> Result<NodeConfig, ConfigError> {
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let named = NodeConfig::load(path)?.data.iter().any(|known| *known == folder || *known == base.join(folder));
    if !named {
        let what = format!("{} is not in the list; `dolmen node disk list` shows it", folder.display());
        return Err(ConfigError::Invalid { path: path.to_owned(), key: "data", what });
    }
    edit(path, |folders| folders.retain(|known| *known != folder && base.join(known) != base.join(folder)))
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<PathBuf>)) -> Result<NodeConfig, ConfigError> {
    let text = read_text(path)?;
    let file: File = toml::from_str(&text).map_err(|error| syntax_error(&text, path, &error))?;
    let span = file.data.span();
    let mut folders = file.data.into_inner();
    change(&mut folders);
    let mut list = String::from("[\n");
    for folder in &folders {
        let quoted = toml::Value::String(folder.to_string_lossy().into_owned());
        list.push_str(&format!("    {quoted},\n"));
    }
    list.push(']');
    let edited = [&text[..span.start], &list, &text[span.end..]].concat();
    let config = NodeConfig::parse(&edited, path)?;
    replace_file(path, edited.as_bytes()).map_err(|source| ConfigError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })?;
    Ok(config)
}

/// Writes a file beside `path` and renames it over it: readers see the old file or the new one, whole.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
