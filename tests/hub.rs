//! Looking a model up: paths, the cache's order and layout, names that try to climb.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use doge_engine::{
    hub::{resolve, Environment, Resolved, Secret},
    Error,
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";

fn cache_at(path: &Path) -> Environment {
    let mut environment = Environment::default();
    environment.hf_hub_cache = Some(path.to_str().unwrap().to_string());
    environment
}

/// `owner/name` in a cache, with these snapshots and `refs/main`.
fn fill(cache: &Path, snapshots: &[&str], main: Option<&str>) {
    let folder = cache.join("models--owner--name");
    for commit in snapshots {
        fs::create_dir_all(folder.join("snapshots").join(commit)).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::write(folder.join("snapshots").join(commit).join(name), "{}").unwrap();
        }
    }
    if let Some(main) = main {
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs").join("main"), main).unwrap();
    }
}

fn not_found(result: Result<Resolved, Error>, words: &[&str]) {
    match result {
        Err(error @ Error::ModelNotFound { .. }) => {
            let message = error.to_string();
            words.iter().for_each(|word| assert!(message.contains(word), "'{word}' is not in: {message}"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_variable_that_is_set_decides() {
    let mut environment = Environment::default();
    assert_eq!(environment.cache(), None);
    let mut expect = |set: &dyn Fn(&mut Environment), path: &str| {
        set(&mut environment);
        assert_eq!(environment.cache().unwrap(), Path::new(path));
    };
    expect(&|e| e.home = Some("/home/u".into()), "/home/u/.cache/huggingface/hub");
    expect(&|e| e.xdg_cache_home = Some("/xdg".into()), "/xdg/huggingface/hub");
    expect(&|e| e.hf_home = Some("~/hf".into()), "/home/u/hf/hub");
    expect(&|e| e.huggingface_hub_cache = Some("/old".into()), "/old");
    expect(&|e| e.hf_hub_cache = Some("~/new".into()), "/home/u/new");
    expect(&|e| e.hf_hub_cache = Some("~other/new".into()), "~other/new");
}

#[test]
fn a_path_is_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    fs::write(&file, "").unwrap();
    for path in [folder.path(), &file] {
        let found = resolve(path.to_str().unwrap(), None, &Environment::default()).unwrap();
        assert_eq!((found.path.as_path(), found.note), (path, None));
        let revision = resolve(path.to_str().unwrap(), Some("main"), &Environment::default());
        assert!(matches!(revision, Err(Error::BadArgument { what: "revision", .. })));
    }
}

#[test]
fn refs_lead_to_the_snapshot() {
    let cache = tempfile::tempdir().unwrap();
    fill(cache.path(), &[OTHER, COMMIT], Some(&format!("{COMMIT}\n")));
    let snapshots = cache.path().join("models--owner--name/snapshots");
    let environment = cache_at(cache.path());
    let at = |revision| resolve("owner/name", revision, &environment);
    let found = at(None).unwrap();
    assert_eq!((found.path, found.note), (snapshots.join(COMMIT), None));
    assert_eq!(at(Some("main")).unwrap().path, snapshots.join(COMMIT));
    assert_eq!(at(Some(OTHER)).unwrap().path, snapshots.join(OTHER));
    fs::create_dir_all(cache.path().join("models--owner--name/refs/refs/pr")).unwrap();
    fs::write(cache.path().join("models--owner--name/refs/refs/pr/1"), OTHER).unwrap();
    assert_eq!(at(Some("refs/pr/1")).unwrap().path, snapshots.join(OTHER));
    not_found(at(Some("v9")), &["v9", COMMIT, OTHER, "hf download owner/name"]);
}

#[test]
fn without_refs_the_newest_snapshot_and_a_note() {
    let cache = tempfile::tempdir().unwrap();
    fill(cache.path(), &[COMMIT], None);
    let found = resolve("owner/name", None, &cache_at(cache.path())).unwrap();
    assert!(found.path.ends_with(COMMIT) && found.note.unwrap().contains(COMMIT));
    // A ref that dangles, and one that climbs.
    for main in [OTHER, "../../../../etc", ""] {
        fill(cache.path(), &[COMMIT], Some(main));
        assert!(resolve("owner/name", None, &cache_at(cache.path())).unwrap().path.ends_with(COMMIT), "{main}");
    }
}

/// What is there and cannot be read is not passed over for something else.
#[cfg(unix)]
#[test]
fn what_cannot_be_read_is_named() {
    let cache = tempfile::tempdir().unwrap();
    fill(cache.path(), &[COMMIT], None);
    let refs = cache.path().join("models--owner--name/refs");
    fs::create_dir(&refs).unwrap();
    std::os::unix::fs::symlink("gone", refs.join("main")).unwrap();
    let found = resolve("owner/name", None, &cache_at(cache.path()));
    assert!(matches!(&found, Err(Error::Io { path, .. }) if path.ends_with("refs/main")), "{found:?}");
    fs::remove_file(refs.join("main")).unwrap();
    fs::create_dir(refs.join("main")).unwrap();
    let found = resolve("owner/name", None, &cache_at(cache.path()));
    assert!(matches!(&found, Err(Error::BadFile { path, .. }) if path.ends_with("refs/main")), "{found:?}");

    // A path that leads nowhere is a path: opening it says what is wrong.
    let link = cache.path().join("link");
    std::os::unix::fs::symlink("gone", &link).unwrap();
    assert_eq!(resolve(link.to_str().unwrap(), None, &Environment::default()).unwrap().path, link);
}

#[test]
fn what_is_not_there() {
    let cache = tempfile::tempdir().unwrap();
    let environment = cache_at(cache.path());
    let place = cache.path().to_str().unwrap();
    not_found(resolve("owner/name", None, &environment), &["owner/name", place, "--download", "hf download owner/name"]);
    fs::create_dir_all(cache.path().join("models--owner--name/snapshots")).unwrap();
    not_found(resolve("owner/name", None, &environment), &["no whole checkpoint", "hf download owner/name"]);
    not_found(resolve("owner/name", None, &Environment::default()), &["HF_HOME"]);
}

/// A download that was interrupted left its first files: not found, so that it is taken up again.
#[test]
fn half_a_snapshot_is_none() {
    let cache = tempfile::tempdir().unwrap();
    fill(cache.path(), &[COMMIT], Some(COMMIT));
    let environment = cache_at(cache.path());
    let snapshot = cache.path().join("models--owner--name/snapshots").join(COMMIT);
    let find = |revision| resolve("owner/name", revision, &environment);
    let half = || [None, Some("main"), Some(COMMIT)].into_iter().for_each(|revision| not_found(find(revision), &["--download"]));
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    half();
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    fs::write(snapshot.join("model.safetensors.index.json"), index).unwrap();
    fs::write(snapshot.join("model-00001-of-00002.safetensors"), "").unwrap();
    half();
    fs::write(snapshot.join("model-00002-of-00002.safetensors"), "").unwrap();
    assert_eq!(find(None).unwrap().path, snapshot);
}

/// By time, not by name; what lacks a file is none.
#[test]
fn of_several_snapshots_the_newest_whole_one() {
    let cache = tempfile::tempdir().unwrap();
    fill(cache.path(), &["ccccc", "aaaaa", "bbbbb", "ddddd"], None);
    let snapshots = cache.path().join("models--owner--name/snapshots");
    fs::remove_file(snapshots.join("ddddd/config.json")).unwrap();
    let day = Duration::from_secs(86400);
    for (name, days) in [("ccccc", 3), ("aaaaa", 1), ("bbbbb", 2), ("ddddd", 0)] {
        fs::File::open(snapshots.join(name)).unwrap().set_modified(SystemTime::now() - days * day).unwrap();
    }
    assert_eq!(resolve("owner/name", None, &cache_at(cache.path())).unwrap().path, snapshots.join("aaaaa"));
}

/// A ref is a name in snapshots/, not a path: a whole checkpoint beside it is not taken.
#[test]
fn a_ref_that_climbs_is_no_snapshot() {
    let cache = tempfile::tempdir().unwrap();
    fill(cache.path(), &[COMMIT, "../evil"], Some("../evil"));
    assert!(cache.path().join("models--owner--name/evil/model.safetensors").is_file());
    let found = resolve("owner/name", None, &cache_at(cache.path())).unwrap();
    assert_eq!(found.path, cache.path().join("models--owner--name/snapshots").join(COMMIT));
}

#[test]
fn the_variables_of_the_process_are_read() {
    // What the variables say is asked of this program run anew: here, other tests run beside.
    const ASKED: &str = "DOGE_TEST_ENVIRONMENT";
    if std::env::var(ASKED).is_ok() {
        println!("{:?}", Environment::from_process());
        return;
    }
    let said = |variables: &[(&str, &str)]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_variables_of_the_process_are_read", "--nocapture"]).env_clear().env(ASKED, "");
        String::from_utf8(command.envs(variables.iter().copied()).output().unwrap().stdout).unwrap()
    };
    let expect = |variables: &[(&str, &str)], change: &dyn Fn(&mut Environment)| {
        let mut environment = Environment::default();
        change(&mut environment);
        let (said, wanted) = (said(variables), format!("{environment:?}"));
        assert!(said.contains(&wanted), "{variables:?} should give {wanted}: {said}");
    };
    expect(&[], &|_| {});
    expect(&[("HF_HUB_CACHE", "a"), ("HF_HOME", "")], &|e| e.hf_hub_cache = Some("a".into()));
    expect(&[("HUGGINGFACE_HUB_CACHE", "a")], &|e| e.huggingface_hub_cache = Some("a".into()));
    expect(&[("HF_HOME", "a")], &|e| e.hf_home = Some("a".into()));
    expect(&[("XDG_CACHE_HOME", "a")], &|e| e.xdg_cache_home = Some("a".into()));
    expect(&[("HOME", "a"), ("USERPROFILE", "b")], &|e| e.home = Some("a".into()));
    expect(&[("USERPROFILE", "b")], &|e| e.home = Some("b".into()));
    expect(&[("HF_ENDPOINT", "a")], &|e| e.hf_endpoint = Some("a".into()));
    expect(&[("HF_TOKEN", "a")], &|e| e.hf_token = Some(Secret("a".into())));
    for (value, offline) in [("1", true), ("on", true), ("Yes", true), ("TRUE", true), ("0", false), ("no", false), ("", false)] {
        expect(&[("HF_HUB_OFFLINE", value)], &|e| e.offline = offline);
    }
}

#[test]
fn names_that_are_none() {
    let cache = tempfile::tempdir().unwrap();
    fill(cache.path(), &[COMMIT], Some(COMMIT));
    for name in [
        "name",
        "a/b/c",
        "../name",
        "owner/..",
        "owner/../x",
        ".owner/name",
        "owner/na me",
        "owner/",
        "/name",
        "a--b/c",
        "owner/na\0me",
        "",
        "C:\\x",
        "owner/name.",
        "owner/-name",
        "owner-/name",
        &format!("owner/{}", "x".repeat(97)),
    ] {
        not_found(resolve(name, None, &cache_at(cache.path())), &["owner/name"]);
    }
    for revision in ["../main", "..", "a//b", "/etc", "", "a b", ".git", "a/../../b", &"x".repeat(201)] {
        let found = resolve("owner/name", Some(revision), &cache_at(cache.path()));
        assert!(matches!(found, Err(Error::BadArgument { what: "revision", .. })), "{revision}: {found:?}");
    }
}
