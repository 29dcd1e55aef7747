//! What a put was given, before it is walked.
//!
//! Decides what becomes the root and which names the rest has, and counts what there is to do. Never reads contents.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dolmen_proto::manifest::Name;
use tokio::io::AsyncRead;

use super::exclude::Exclude;
use super::walk::{Origin, mtime_ns, permission_bits};
use crate::error::{ClientError, ErrorKind};

/// Bytes that come from the caller, to be put as one file. They can be read once.
pub(crate) struct Stream {
    pub(crate) bytes: Box<dyn AsyncRead + Send + Unpin>,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Stream(..)")
    }
}

/// What a put was given.
#[derive(Debug)]
pub(crate) enum Source {
    /// Files and folders.
    Paths(Vec<PathBuf>),
    /// One file.
    Stream(Name, Stream),
}

/// What the walk starts from.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) content: Content,
    /// One thing was given that is no folder, so the root stands for it.
    pub(crate) single: bool,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// The entries of this folder.
    Folder {
        path: PathBuf,
        /// Its mode and time.
        meta: Option<(u32, i64)>,
    },
    /// These, by name.
    Given(Vec<(Name, Origin)>),
}

impl Source {
    /// What the walk starts from: one folder becomes the root; anything else becomes entries of the root.
    ///
    /// # Errors
    /// `Usage` when no path is given, two have one name or a path has no name; `Local` when a path does not exist or the
    /// one folder cannot be read.
    pub(crate) async fn roots(self) -> Result<Roots, ClientError> {
        match self {
            Self::Paths(paths) => tokio::task::spawn_blocking(move || of_paths(&paths))
                .await
                .map_err(|error| ClientError::bug("reading folders failed", error))?,
            Self::Stream(name, stream) => {
                Ok(Roots { content: Content::Given(vec![(name, Origin::Stream(stream))]), single: true })
            }
        }
    }
}

fn of_paths(paths: &[PathBuf]) -> Result<Roots, ClientError> {
    if let [path] = paths {
        let metadata = look(path)?;
        if metadata.is_dir() {
            fs::read_dir(path).map_err(|error| ClientError::local("read", path, &error))?;
            let meta = Some((permission_bits(&metadata), mtime_ns(&metadata)));
            return Ok(Roots { content: Content::Folder { path: path.clone(), meta }, single: false });
        }
    }
    if paths.is_empty() {
        let again = "name at least one file or folder";
        return Err(ClientError::new(ErrorKind::Usage, "nothing to put", "no path was given", again));
    }
    let nameless = |path: &Path, why: &dyn fmt::Display| {
        let what = format!("{} has no name", path.display());
        ClientError::new(ErrorKind::Usage, what, why, "put it by itself")
    };
    let among = "among several paths each becomes an entry under its own name";
    let mut given: Vec<(Name, Origin)> = Vec::with_capacity(paths.len());
    for path in paths {
        look(path)?;
        let name = match path.file_name() {
            Some(name) => name.as_bytes().to_vec(),
            None => fs::canonicalize(path)
                .map_err(|error| ClientError::local("find", path, &error))?
                .file_name()
                .map(|name| name.as_bytes().to_vec())
                .ok_or_else(|| nameless(path, &among))?,
        };
        let name = Name::new(name).map_err(|error| nameless(path, &format!("its name {error}")))?;
        given.push((name, Origin::Path(path.clone())));
    }
    given.sort_by(|left, right| left.0.cmp(&right.0));
    if let Some(pair) = given.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let shown = |origin: &Origin| match origin {
            Origin::Path(path) => path.display().to_string(),
            Origin::Stream(_) | Origin::Kept(_) => "the stream".to_owned(),
        };
        return Err(ClientError::new(
            ErrorKind::Usage,
            format!("{} and {} have the same name", shown(&pair[0].1), shown(&pair[1].1)),
            among,
            "put them by themselves, or rename one",
        ));
    }
    let single = given.len() == 1;
    Ok(Roots { content: Content::Given(given), single })
}

fn look(path: &Path) -> Result<Metadata, ClientError> {
    fs::symlink_metadata(path).map_err(|error| ClientError::local("find", path, &error))
}

impl Roots {
    /// The folder that patterns are relative to.
    pub(crate) fn folder(&self) -> &Path {
        match &self.content {
            Content::Folder { path, .. } => path,
            Content::Given(_) => Path::new(""),
        }
    }

    /// The paths to count below.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        match &self.content {
            Content::Folder { path, .. } => vec![path.clone()],
            Content::Given(given) => {
                let path = |(_, origin): &(Name, Origin)| match origin {
                    Origin::Path(path) => Some(path.clone()),
                    Origin::Stream(_) | Origin::Kept(_) => None,
                };
                given.iter().filter_map(path).collect()
            }
        }
    }
}

/// Counts files and their bytes, as far as they can be looked at, until `go_on` says no.
pub(crate) fn count(paths: Vec<PathBuf>, exclude: &Exclude, go_on: impl Fn() -> bool) -> Option<(u64, u64)> {
    let (mut files, mut bytes) = (0u64, 0u64);
    // Folders that are still to be listed: those beside the way down, which are few.
    let mut waiting = paths;
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if exclude.matches(&path, metadata.is_dir()) {
            continue;
        }
        if metadata.is_file() {
            files += 1;
            bytes = bytes.saturating_add(metadata.len());
        }
        if !metadata.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if !go_on() {
                return None;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    let path = entry.path();
                    if let Ok(metadata) = entry.metadata()
                        && !exclude.matches(&path, false)
                    {
                        files += 1;
                        bytes = bytes.saturating_add(metadata.len());
                    }
                }
                _ => {}
            }
        }
    }
    Some((files, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_paths_become_entries_under_their_names() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("x/same")).unwrap();
        fs::write(folder.path().join("same"), "").unwrap();
        fs::write(folder.path().join("other"), "12345").unwrap();
        let path = |name: &str| folder.path().join(name);
        let roots = |paths: &[PathBuf]| of_paths(paths);
        let found = roots(&[path("x"), path("other")]).unwrap();
        let Content::Given(given) = &found.content else { panic!("two were given") };
        assert_eq!(given.iter().map(|(name, _)| name.as_bytes()).collect::<Vec<_>>(), [&b"other"[..], b"x"]);
        assert!(!found.single && roots(&[path("same")]).unwrap().single);
        assert_eq!(roots(&[path("same"), path("x/same")]).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(roots(&[path("missing")]).unwrap_err().kind(), ErrorKind::Local);
        assert_eq!(roots(&[]).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn counting_sees_what_the_walk_sees() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/one"), "1").unwrap();
        fs::write(folder.path().join("a/two.tmp"), "22").unwrap();
        fs::write(folder.path().join("three"), "333").unwrap();
        let counted = |globs: &[&str]| {
            let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
            let exclude = Exclude::new(folder.path(), &globs).unwrap();
            count(vec![folder.path().to_path_buf()], &exclude, || true).unwrap()
        };
        assert_eq!(counted(&[]), (3, 6));
        assert_eq!(counted(&["*.tmp"]), (2, 4));
        assert_eq!(counted(&["b/"]), (2, 5));
    }
}
