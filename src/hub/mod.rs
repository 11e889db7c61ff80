//! From the name of a model to a folder or file on this machine: paths, and the Hugging Face cache. Only
//! `hub::download` (feature `download`) ever opens a socket.

#[cfg(feature = "download")]
pub mod download;

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{mapped::is_there, model::archive, text_file::read_text, Error, Result};

/// A file in refs/ holds a commit's name.
const MAX_REF_BYTES: u64 = 1 << 10;

/// The variables that huggingface_hub reads, as values: so nothing here depends on the process's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Environment {
    /// `HF_HUB_CACHE`: the cache itself.
    pub hf_hub_cache: Option<String>,
    /// `HUGGINGFACE_HUB_CACHE`: its older name.
    pub huggingface_hub_cache: Option<String>,
    /// `HF_HOME`: the cache is `hub` in it.
    pub hf_home: Option<String>,
    /// `XDG_CACHE_HOME`: the cache is `huggingface/hub` in it.
    pub xdg_cache_home: Option<String>,
    /// `HOME`, or `USERPROFILE`.
    pub home: Option<String>,
    /// `HF_ENDPOINT`: in the place of `https://huggingface.co`.
    pub hf_endpoint: Option<String>,
    /// `HF_TOKEN`, for repositories that are not public.
    pub hf_token: Option<Secret>,
    /// `HF_HUB_OFFLINE`: never the network, even when asked.
    pub offline: bool,
}

impl Environment {
    /// The process's. A variable that is set and empty counts as unset.
    pub fn from_process() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let truth = |value: String| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        Environment {
            hf_hub_cache: var("HF_HUB_CACHE"),
            huggingface_hub_cache: var("HUGGINGFACE_HUB_CACHE"),
            hf_home: var("HF_HOME"),
            xdg_cache_home: var("XDG_CACHE_HOME"),
            home: var("HOME").or_else(|| var("USERPROFILE")),
            hf_endpoint: var("HF_ENDPOINT"),
            hf_token: var("HF_TOKEN").map(Secret),
            offline: var("HF_HUB_OFFLINE").is_some_and(truth),
        }
    }

    /// The cache folder, by huggingface_hub's order. `None` if nothing is set, not even a home.
    pub fn cache(&self) -> Option<PathBuf> {
        let path = |value: &Option<String>| value.as_ref().map(|value| self.expand_home(value));
        path(&self.hf_hub_cache)
            .or_else(|| path(&self.huggingface_hub_cache))
            .or_else(|| Some(path(&self.hf_home)?.join("hub")))
            .or_else(|| Some(path(&self.xdg_cache_home)?.join("huggingface").join("hub")))
            .or_else(|| Some(path(&self.home)?.join(".cache").join("huggingface").join("hub")))
    }

    fn expand_home(&self, value: &str) -> PathBuf {
        match (value.strip_prefix('~'), &self.home) {
            (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => PathBuf::from(format!("{home}{rest}")),
            _ => PathBuf::from(value),
        }
    }
}

/// A value that is not to show in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Where a checkpoint lies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// A checkpoint folder, or a `.safetensors` file.
    pub path: PathBuf,
    /// What a user should know about the choice.
    pub note: Option<String>,
}

/// The checkpoint that `name` means: a folder, a file, or `owner/name` in the Hugging Face cache. `revision` is a branch,
/// a tag or a commit; `None` is `main`. Never the network.
///
/// # Errors
/// [`Error::ModelNotFound`] that says where it looked and what would fetch it; [`Error::BadArgument`] for a revision of
/// something that has none; [`Error::Io`] and [`Error::BadFile`] if what should tell cannot be read.
pub fn resolve(name: &str, revision: Option<&str>, environment: &Environment) -> Result<Resolved> {
    let path = Path::new(name);
    if is_there(path)? {
        if revision.is_some() {
            let why = format!("'{name}' is a path on this machine; only owner/name has revisions");
            return Err(Error::BadArgument { what: "revision", why });
        }
        return Ok(Resolved { path: path.to_path_buf(), note: None });
    }
    let Some(repository) = Repository::parse(name) else {
        let why = "no such folder or file, and it is not of the form owner/name".to_string();
        return Err(Error::ModelNotFound { name: name.to_string(), why });
    };
    let Some(cache) = environment.cache() else {
        let why = "no Hugging Face cache: set HF_HOME or HF_HUB_CACHE".to_string();
        return Err(Error::ModelNotFound { name: name.to_string(), why });
    };
    check_revision(revision.unwrap_or("main"))?;
    repository.find(&cache, revision)
}

/// `owner/name` of a model on the hub.
pub(crate) struct Repository<'a> {
    name: &'a str,
}

impl<'a> Repository<'a> {
    /// `None` if it is no such name: what the hub allows, so it cannot climb out of the cache.
    pub fn parse(name: &'a str) -> Option<Self> {
        let word = |word: &str| {
            let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            plain && (1..=96).contains(&word.len()) && !word.starts_with(['.', '-']) && !word.ends_with(['.', '-'])
        };
        let (owner, model) = name.split_once('/')?;
        let allowed = word(owner) && word(model) && !name.contains("--") && !name.contains("..");
        allowed.then_some(Repository { name })
    }

    /// `models--owner--name` in the cache.
    pub fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(format!("models--{}", self.name.replace('/', "--")))
    }

    fn find(&self, cache: &Path, revision: Option<&str>) -> Result<Resolved> {
        let folder = self.folder(cache);
        let snapshots = folder.join("snapshots");
        let not_found = |why: String| Error::ModelNotFound { name: self.name.to_string(), why };
        let fetch = format!("fetch it with --download, or: hf download {}", self.name);
        if !snapshots.is_dir() {
            return Err(not_found(format!("no such path, and not in the Hugging Face cache ({}); {fetch}", folder.display())));
        }

        let wanted = revision.unwrap_or("main");
        let commit = match read_text(&folder.join("refs").join(wanted), MAX_REF_BYTES)? {
            Some(commit) => Some(commit.trim().to_string()),
            None => Some(wanted.to_string()).filter(|wanted| is_commit(wanted)),
        };
        // What refs/ says is a name in snapshots/, not a path.
        if let Some(path) = commit.filter(|commit| is_commit(commit)).map(|commit| snapshots.join(commit)) {
            if is_whole(&path) {
                return Ok(Resolved { path, note: None });
            }
        }
        let found = newest_first(&snapshots);
        match (revision, found.as_slice()) {
            // A cache filled by hand or copied may lack refs/.
            (None, [newest, ..]) => {
                let note =
                    format!("refs/main names no snapshot in {}; using {newest}, the newest of {}", folder.display(), found.len());
                Ok(Resolved { path: snapshots.join(newest), note: Some(note) })
            }
            (None, []) => Err(not_found(format!("{} holds no whole checkpoint; {fetch}", snapshots.display()))),
            (Some(revision), _) => {
                let have = if found.is_empty() { "none".to_string() } else { found.join(", ") };
                Err(not_found(format!(
                    "revision '{revision}' is not, or not wholly, in {} (snapshots: {have}); {fetch} --revision {revision}",
                    folder.display()
                )))
            }
        }
    }
}

/// A name in snapshots/: git's hex digits.
pub(crate) fn is_commit(word: &str) -> bool {
    (5..=64).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A branch, tag or commit: it becomes a path under refs/, so no part of it may climb.
pub(crate) fn check_revision(revision: &str) -> Result<()> {
    let part = |part: &str| {
        let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        plain && !part.is_empty() && !part.starts_with('.')
    };
    if revision.len() <= 200 && revision.split('/').all(part) {
        return Ok(());
    }
    Err(Error::BadArgument { what: "revision", why: format!("'{revision}' is no branch, tag or commit") })
}

/// Has a snapshot a config and all its weights? One whose download was interrupted has not.
fn is_whole(snapshot: &Path) -> bool {
    let has = |name: &str| snapshot.join(name).is_file();
    let shards = || archive::shards(&snapshot.join(archive::INDEX)).is_ok_and(|shards| shards.iter().all(|shard| has(shard)));
    has("config.json") && (has(archive::SINGLE) || shards())
}

/// Names of the whole snapshots, the one changed last first.
fn newest_first(snapshots: &Path) -> Vec<String> {
    let entries = fs::read_dir(snapshots).into_iter().flatten().flatten();
    let mut found: Vec<(SystemTime, String)> = entries
        .filter(|entry| is_whole(&entry.path()))
        .filter_map(|entry| {
            let changed = entry.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            Some((changed, entry.file_name().into_string().ok()?))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, name)| name).collect()
}
