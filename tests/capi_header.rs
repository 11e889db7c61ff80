//! include/doge_engine.h is what cbindgen makes of src/capi, and include/symbols.txt lists what it declares.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(here("cbindgen.toml")).expect("cbindgen.toml");
    // The other files of the room are found by its `mod` lines.
    let builder = cbindgen::Builder::new().with_config(config).with_src(here("src/capi/mod.rs"));
    let mut header = Vec::new();
    builder.generate().expect("src/capi is what cbindgen reads").write(&mut header);
    // What Rust's documentation must say is no news to a C programmer.
    let text = String::from_utf8(header).expect("UTF-8");
    text.replace("\n\n # Safety\n Pointers as the header's preface says.", "")
}

/// Set DOGE_BLESS=1 to write the header and the list anew.
#[test]
fn the_header_is_the_source() {
    let (header, symbols) = (generated(), here("include/symbols.txt"));
    let declarations: Vec<&str> = header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '*', '#']))
        .filter_map(|line| line.split_once('(').map(|(before, _)| before))
        .filter_map(|before| before.rsplit([' ', '*']).next().filter(|name| name.starts_with("doge_")))
        .collect();
    let declared: BTreeSet<&str> = declarations.iter().copied().collect();
    assert_eq!(declared.len(), declarations.len(), "declared more than once: {declarations:?}");
    let list = declared.iter().map(|name| format!("{name}\n")).collect::<String>();
    if std::env::var_os("DOGE_BLESS").is_some() {
        fs::write(here("include/doge_engine.h"), &header).expect("written");
        fs::write(&symbols, &list).expect("written");
    }
    assert!(declared.len() > 20, "{declared:?}");
    let committed = fs::read_to_string(here("include/doge_engine.h")).expect("include/doge_engine.h");
    assert!(committed == header, "include/doge_engine.h is not what src/capi says; run this test with DOGE_BLESS=1");
    let committed = fs::read_to_string(symbols).expect("include/symbols.txt");
    assert_eq!(committed, list, "include/symbols.txt; run this test with DOGE_BLESS=1");
    // A function that is exported and not declared would be missed above.
    for entry in fs::read_dir(here("src/capi")).expect("src/capi") {
        let source = fs::read_to_string(entry.expect("an entry").path()).expect("a source file");
        for (at, _) in source.match_indices("#[no_mangle]") {
            let name = source[at..].split("fn ").nth(1).and_then(|rest| rest.split('(').next()).expect("a function");
            assert!(declared.contains(name), "{name} is not in the header");
        }
    }
}
