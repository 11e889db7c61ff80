//! Fetches a checkpoint into the Hugging Face cache. The only code of the house that opens a socket, and only when asked.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use serde_json::Value;
use ureq::config::RedirectAuthHeaders;

use super::{check_revision, is_commit, Environment, Repository, Resolved};
use crate::{model::archive, Error, Result};

/// huggingface_hub's default, which `HF_ENDPOINT` replaces.
const ENDPOINT: &str = "https://huggingface.co";

/// What a checkpoint may have beside its weights; only the first must be there.
const SMALL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// Far more than the time-outs below.
const STALE: Duration = Duration::from_secs(3600);

/// How far a download is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// Its name in the repository.
    pub file: &'a str,
    /// Bytes received of this file.
    pub done: u64,
    /// Its size, where the server says it.
    pub total: Option<u64>,
}

/// Fetches `owner/name` into the cache and returns its snapshot: config, tokenizer, chat template, weights. Files that
/// are there already are kept, unless the server lists another size. Each file appears under its name only when it is whole.
///
/// # Errors
/// [`Error::Download`] for whatever the network or the server did; [`Error::ModelNotFound`] for a name that is none;
/// [`Error::Io`] where the cache cannot be written.
pub fn download(
    name: &str,
    revision: Option<&str>,
    environment: &Environment,
    progress: &mut dyn FnMut(Progress),
) -> Result<Resolved> {
    if environment.offline {
        return Err(Error::Download { why: "HF_HUB_OFFLINE is set".into() });
    }
    let not_found = |why: &str| Error::ModelNotFound { name: name.to_string(), why: why.into() };
    let repository = Repository::parse(name).ok_or_else(|| not_found("only owner/name can be downloaded"))?;
    let cache = environment.cache().ok_or_else(|| not_found("no Hugging Face cache: set HF_HOME or HF_HUB_CACHE"))?;
    let revision = revision.unwrap_or("main");
    check_revision(revision)?;

    let hub = Hub::new(name, environment);
    let (commit, listed) = hub.listing(revision)?;
    let has = |file: &str| listed.contains_key(file);
    let folder = repository.folder(&cache);
    let snapshot = folder.join("snapshots").join(&commit);
    create_folder(&snapshot)?;
    remove_stale_parts(&snapshot);
    let mut fetch = |file: &str| hub.fetch(&commit, file, listed.get(file).copied().flatten(), &snapshot, progress);

    if !has("config.json") {
        return Err(Error::Download { why: format!("{name} has no config.json: it is no checkpoint") });
    }
    for file in SMALL_FILES.iter().filter(|file| has(file)) {
        fetch(file)?;
    }
    if has(archive::SINGLE) {
        fetch(archive::SINGLE)?;
    } else if has(archive::INDEX) {
        fetch(archive::INDEX)?;
        for shard in archive::shards(&snapshot.join(archive::INDEX))? {
            fetch(&shard)?;
        }
    } else {
        return Err(Error::Download { why: format!("{name} has neither {} nor {}", archive::SINGLE, archive::INDEX) });
    }
    write_ref(&folder.join("refs").join(revision), &commit)?;
    Ok(Resolved { path: snapshot, note: None })
}

/// One repository on a server.
struct Hub<'a> {
    agent: ureq::Agent,
    endpoint: &'a str,
    name: &'a str,
    authorization: Option<String>,
}

impl<'a> Hub<'a> {
    fn new(name: &'a str, environment: &'a Environment) -> Self {
        let endpoint = environment.hf_endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/');
        // A redirect within the host (a repository with a new name, whatever the port) takes the Authorization header along; to
        // a storage host, or from https to http, it does not.
        let config = ureq::Agent::config_builder()
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .https_only(endpoint.starts_with("https://"))
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .user_agent(concat!("doge-engine/", env!("CARGO_PKG_VERSION")))
            .build();
        Hub {
            agent: config.into(),
            endpoint,
            name,
            authorization: environment.hf_token.as_ref().map(|token| format!("Bearer {}", token.0.trim())),
        }
    }

    fn get(&self, url: &str) -> Result<ureq::Body> {
        let mut request = self.agent.get(url);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let response = request.call().map_err(|error| match error {
            ureq::Error::StatusCode(401 | 403 | 404) => Error::Download {
                why: match self.authorization {
                    None => format!("{url}: not there, or not for everyone (a private or gated model needs HF_TOKEN)"),
                    Some(_) => format!("{url}: not there, or not for this HF_TOKEN, which was sent (is its account let in?)"),
                },
            },
            other => Error::Download { why: format!("{url}: {other}") },
        })?;
        Ok(response.into_body())
    }

    /// The commit that a revision means, and the names of its files with their sizes, where the server tells them.
    fn listing(&self, revision: &str) -> Result<(String, BTreeMap<String, Option<u64>>)> {
        let (endpoint, revision) = (self.endpoint, revision.replace('/', "%2F"));
        let url = format!("{endpoint}/api/models/{}/revision/{revision}?blobs=true", self.name);
        let bad = |why: &str| Error::Download { why: format!("{url}: {why}") };
        let text = self.get(&url)?.read_to_vec().map_err(|error| bad(&error.to_string()))?;
        let json: Value = serde_json::from_slice(&text).map_err(|_| bad("the answer is not JSON"))?;
        // It becomes a folder's name.
        let commit = json
            .get("sha")
            .and_then(|sha| sha.as_str())
            .filter(|sha| is_commit(sha))
            .ok_or_else(|| bad("the answer names no commit"))?;
        let siblings = json.get("siblings").and_then(|files| files.as_array()).ok_or_else(|| bad("the answer lists no files"))?;
        let file = |file: &Value| Some((file.get("rfilename")?.as_str()?.to_string(), file.get("size").and_then(Value::as_u64)));
        Ok((commit.to_string(), siblings.iter().filter_map(file).collect()))
    }

    /// `file` is one of our own names or a shard's, which has been checked; `size` is what the listing says of it.
    fn fetch(
        &self,
        commit: &str,
        file: &str,
        size: Option<u64>,
        snapshot: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let target = snapshot.join(file);
        // Another program may have left it cut.
        if fs::metadata(&target).is_ok_and(|there| size.is_none_or(|size| there.len() == size)) {
            return Ok(());
        }
        let url = format!("{}/{}/resolve/{commit}/{file}", self.endpoint, self.name);
        let body = self.get(&url)?;
        let part = snapshot.join(part_name(file));
        let received = receive(&url, body, size, &part, |done, total| progress(Progress { file, done, total }));
        if let Err(error) = received {
            // The error tells more than a part that cannot be removed.
            let _ = fs::remove_file(&part);
            return Err(error);
        }
        fs::rename(&part, &target).map_err(|source| Error::Io { path: target, source })
    }
}

/// Another one for each download, of this process and of others.
fn part_name(file: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!(".{file}.{}.{}.part", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

/// Parts of downloads that were ended from outside: nobody has written to them for longer than a server may be silent.
fn remove_stale_parts(snapshot: &Path) {
    let entries = fs::read_dir(snapshot).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".part")) {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|then| then.elapsed().ok());
        if age.is_some_and(|age| age > STALE) {
            // The download goes on without it.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The whole body, of `size` bytes if that is known, into a file.
fn receive(
    url: &str,
    body: ureq::Body,
    size: Option<u64>,
    path: &Path,
    mut progress: impl FnMut(u64, Option<u64>),
) -> Result<()> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let bad = |why: String| Error::Download { why: format!("{url}: {why}") };
    let total = size.or(body.content_length());
    let mut reader = body.into_reader();
    let mut file = File::create(path).map_err(io)?;
    let mut buffer = vec![0; 1 << 18];
    let mut done = 0;
    loop {
        progress(done, total);
        let n = reader.read(&mut buffer).map_err(|error| bad(error.to_string()))?;
        if n == 0 {
            break;
        }
        file.write_all(buffer.get(..n).unwrap_or_default()).map_err(io)?;
        done += n as u64;
    }
    if total.is_some_and(|total| total != done) {
        return Err(bad(format!("{done} bytes came of {}", total.unwrap_or(0))));
    }
    file.sync_all().map_err(io)
}

fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::Io { path: path.to_path_buf(), source })
}

/// `refs/main`: what the cache's other users read too.
fn write_ref(path: &Path, commit: &str) -> Result<()> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(part_name(&name));
    fs::write(&part, commit).and_then(|()| fs::rename(&part, path)).map_err(io)
}
