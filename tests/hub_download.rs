//! `--download` against a server on this machine's loopback: what is asked for, what lands in the cache, what does not.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use doge_engine::{
    hub::{download::download, resolve, Environment, Secret},
    model::{Checkpoint, LoadOptions},
    Error,
};
use serde_json::json;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LISTING: &str = "/api/models/owner/name/revision/main?blobs=true";

/// What a path answers.
#[derive(Clone)]
enum Answer {
    Body(Vec<u8>),
    Redirect(String),
    /// Fewer bytes than announced, then the end.
    Cut(Vec<u8>),
    /// Bytes of which nobody says how many they are.
    Unannounced(Vec<u8>),
}

/// Path and Authorization of each request.
type Requests = Mutex<Vec<(String, Option<String>)>>;

/// A server that lives as long as the test process.
struct Server {
    address: String,
    requests: Arc<Requests>,
}

fn serve(answers: BTreeMap<String, Answer>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, &answers, &seen);
        }
    });
    Server { address, requests }
}

fn answer(mut stream: TcpStream, answers: &BTreeMap<String, Answer>, seen: &Requests) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let mut authorization = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((_, value)) = line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            authorization = Some(value.to_string());
        }
    }
    seen.lock().unwrap().push((path.clone(), authorization));
    let (head, body) = match answers.get(&path) {
        Some(Answer::Body(body)) => (format!("200 OK\r\nContent-Length: {}", body.len()), body.clone()),
        Some(Answer::Cut(body)) => (format!("200 OK\r\nContent-Length: {}", body.len() + 7), body.clone()),
        Some(Answer::Unannounced(body)) => ("200 OK".to_string(), body.clone()),
        Some(Answer::Redirect(to)) => (format!("302 Found\r\nLocation: {to}\r\nContent-Length: 0"), Vec::new()),
        None => ("404 Not Found\r\nContent-Length: 0".to_string(), Vec::new()),
    };
    stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes())?;
    stream.write_all(&body)
}

/// A golden folder as the hub would serve it.
fn hub_of(case: &str) -> BTreeMap<String, Answer> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    let mut answers = BTreeMap::new();
    let mut siblings = vec![json!({"rfilename": "README.md"}), json!({"rfilename": "../../evil"})];
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap();
        let file = name.file_name().into_string().unwrap();
        siblings.push(json!({ "rfilename": file }));
        answers.insert(format!("/owner/name/resolve/{COMMIT}/{file}"), Answer::Body(fs::read(name.path()).unwrap()));
    }
    let listing = json!({"sha": COMMIT, "siblings": siblings});
    answers.insert(LISTING.into(), Answer::Body(listing.to_string().into_bytes()));
    answers
}

fn environment(cache: &Path, server: &Server) -> Environment {
    let mut environment = Environment::default();
    environment.hf_hub_cache = Some(cache.to_str().unwrap().into());
    environment.hf_endpoint = Some(format!("{}/", server.address));
    environment
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_lands_in_the_cache() {
    for (case, weights) in [("v2_gqa", 1), ("sharded", 4)] {
        let cache = tempfile::tempdir().unwrap();
        let server = serve(hub_of(case));
        let environment = environment(cache.path(), &server);
        assert!(resolve("owner/name", None, &environment).is_err());
        assert!(server.requests.lock().unwrap().is_empty(), "looking up asked the network");

        let mut last = BTreeMap::new();
        let found = download("owner/name", None, &environment, &mut |p| {
            last.insert(p.file.to_string(), (p.done, p.total));
        })
        .unwrap();
        assert_eq!(resolve("owner/name", None, &environment).unwrap(), found);
        assert_eq!(resolve("owner/name", Some(COMMIT), &environment).unwrap(), found);
        Checkpoint::load(&found.path, &LoadOptions::default()).unwrap();
        assert_eq!(last.len(), 1 + weights);
        assert!(last.values().all(|(done, total)| Some(*done) == *total));
        // Nothing but what a checkpoint needs, no parts, nothing outside.
        assert_eq!(files(&found.path), last.into_keys().collect::<Vec<_>>());
        assert_eq!(files(cache.path()), ["models--owner--name"]);

        // A second time only the listing is asked for.
        let before = server.requests.lock().unwrap().len();
        download("owner/name", None, &environment, &mut |_| {}).unwrap();
        assert_eq!(server.requests.lock().unwrap().len(), before + 1);
    }
}

#[test]
fn a_token_goes_to_the_hub_and_not_to_its_storage() {
    let cache = tempfile::tempdir().unwrap();
    let mut answers = hub_of("v2_gqa");
    let weights = format!("/owner/name/resolve/{COMMIT}/model.safetensors");
    let storage = serve(BTreeMap::from([("/blob".to_string(), answers[&weights].clone())]));
    // Another host name, as in life.
    let elsewhere = storage.address.replace("127.0.0.1", "localhost");
    answers.insert(weights, Answer::Redirect(format!("{elsewhere}/blob")));
    let server = serve(answers);
    let mut environment = environment(cache.path(), &server);
    environment.hf_token = Some(Secret("hf_secret".into()));
    assert!(!format!("{environment:?}").contains("hf_secret"));
    let found = download("owner/name", None, &environment, &mut |_| {}).unwrap();
    Checkpoint::load(&found.path, &LoadOptions::default()).unwrap();
    assert!(server.requests.lock().unwrap().iter().all(|(_, a)| a.as_deref() == Some("Bearer hf_secret")));
    assert_eq!(*storage.requests.lock().unwrap(), [("/blob".to_string(), None)]);
}

/// A renamed repository answers under its old name by a redirect, on the same host.
#[test]
fn a_token_goes_to_the_new_name_of_a_repository() {
    let cache = tempfile::tempdir().unwrap();
    let mut answers = BTreeMap::new();
    for (path, answer) in hub_of("v2_gqa") {
        let renamed = path.replace("owner/name", "owner/renamed");
        answers.insert(path, Answer::Redirect(renamed.clone()));
        answers.insert(renamed, answer);
    }
    let server = serve(answers);
    let mut environment = environment(cache.path(), &server);
    environment.hf_token = Some(Secret("hf_secret".into()));
    download("owner/name", None, &environment, &mut |_| {}).unwrap();
    let requests = server.requests.lock().unwrap();
    assert!(requests.iter().any(|(path, _)| path.contains("owner/renamed/resolve")));
    assert!(requests.iter().all(|(_, a)| a.as_deref() == Some("Bearer hf_secret")), "{requests:?}");
}

#[test]
fn a_refusal_says_whether_the_token_was_sent() {
    let (cache, server) = (tempfile::tempdir().unwrap(), serve(BTreeMap::new()));
    let mut environment = environment(cache.path(), &server);
    let refusal = |environment: &Environment| download("owner/name", None, environment, &mut |_| {}).unwrap_err().to_string();
    assert!(refusal(&environment).contains("needs HF_TOKEN"));
    environment.hf_token = Some(Secret("hf_secret".into()));
    let refusal = refusal(&environment);
    assert!(refusal.contains("HF_TOKEN, which was sent") && !refusal.contains("needs"), "{refusal}");
}

#[test]
fn a_file_has_the_size_that_the_listing_says() {
    let (file, mut answers) = (format!("/owner/name/resolve/{COMMIT}/model.safetensors"), hub_of("v2_gqa"));
    let Answer::Body(weights) = answers[&file].clone() else { unreachable!() };
    let sizes = |size: usize| {
        let siblings = [json!({"rfilename": "config.json"}), json!({"rfilename": "model.safetensors", "size": size})];
        Answer::Body(json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes())
    };
    answers.insert(LISTING.into(), sizes(weights.len()));
    answers.insert(file.clone(), Answer::Unannounced(weights[..weights.len() - 1].to_vec()));
    let (cache, cut) = (tempfile::tempdir().unwrap(), serve(answers.clone()));
    let error = download("owner/name", None, &environment(cache.path(), &cut), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains(&format!("{} bytes came of {}", weights.len() - 1, weights.len())), "{error}");

    // A file that something else left cut is fetched anew; one of the right size is kept.
    let here = cache.path().join("models--owner--name/snapshots").join(COMMIT).join("model.safetensors");
    assert!(!here.exists());
    fs::write(&here, &weights[..10]).unwrap();
    answers.insert(file, Answer::Unannounced(weights.clone()));
    let whole = serve(answers);
    for requests in [2, 3] {
        download("owner/name", None, &environment(cache.path(), &whole), &mut |_| {}).unwrap();
        assert!(fs::read(&here).unwrap() == weights);
        assert_eq!(whole.requests.lock().unwrap().len(), requests);
    }
}

fn refused(change: impl FnOnce(&mut BTreeMap<String, Answer>), word: &str) {
    let cache = tempfile::tempdir().unwrap();
    let mut answers = hub_of("sharded");
    change(&mut answers);
    let server = serve(answers);
    let environment = environment(cache.path(), &server);
    let error = download("owner/name", None, &environment, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Download { .. } | Error::BadFile { .. }), "{error:?}");
    assert!(error.to_string().contains(word), "'{word}' is not in: {error}");
    let folder = cache.path().join("models--owner--name");
    assert!(!folder.join("refs").exists(), "a failed download is named by refs");
    if let Ok(snapshot) = fs::read_dir(folder.join("snapshots").join(COMMIT)) {
        assert!(snapshot.flatten().all(|e| !e.file_name().to_string_lossy().contains("part")), "a part is left");
    }
}

#[test]
fn servers_that_fail() {
    let api = LISTING.to_string();
    let file = |name: &str| format!("/owner/name/resolve/{COMMIT}/{name}");
    let body = |text: &str| Answer::Body(text.as_bytes().to_vec());
    refused(|a| drop(a.remove(&api)), "HF_TOKEN");
    refused(|a| drop(a.insert(api.clone(), body("<html>"))), "not JSON");
    refused(|a| drop(a.insert(api.clone(), body(r#"{"sha": "../../../tmp/x", "siblings": []}"#))), "commit");
    refused(|a| drop(a.insert(api.clone(), body(&format!(r#"{{"sha": "{COMMIT}"}}"#)))), "files");
    refused(|a| drop(a.insert(api.clone(), body(&format!(r#"{{"sha": "{COMMIT}", "siblings": []}}"#)))), "config.json");
    refused(|a| drop(a.remove(&file("model-00002-of-00003.safetensors"))), "model-00002-of-00003.safetensors");
    refused(|a| drop(a.insert(file("config.json"), Answer::Cut(b"{}".to_vec()))), "config.json");
    refused(
        |a| drop(a.insert(file("model.safetensors.index.json"), body(r#"{"weight_map": {"a": "../x.safetensors"}}"#))),
        "../x.safetensors",
    );
}

#[test]
fn offline_is_offline() {
    let cache = tempfile::tempdir().unwrap();
    let server = serve(hub_of("v2_gqa"));
    let mut offline = environment(cache.path(), &server);
    offline.offline = true;
    let error = download("owner/name", None, &offline, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE"));
    for name in ["owner", "../x", "owner/../x"] {
        assert!(matches!(
            download(name, None, &environment(cache.path(), &server), &mut |_| {}),
            Err(Error::ModelNotFound { .. })
        ));
    }
    assert!(server.requests.lock().unwrap().is_empty());
}
