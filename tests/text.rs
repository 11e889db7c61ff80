//! Tokenizer, text streams and stop strings: every entry of the golden files, and the edges.
#![cfg(feature = "text")]

use std::path::Path;
use std::sync::LazyLock;

use doge_engine::{Error, StopStrings, Stopped, TextStream, Tokenizer};
use proptest::prelude::*;
use serde_json::{json, Value};

const BARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/doge-bard");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizer");
const CHAT_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chat_model");

fn tokenizer(folder: &str) -> Tokenizer {
    Tokenizer::from_folder(Path::new(folder)).unwrap()
}

fn expected(folder: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(Path::new(folder).join("expected.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn rows<'a>(expected: &'a Value, key: &str, at_least: usize) -> &'a [Value] {
    let rows = expected[key].as_array().unwrap();
    assert!(rows.len() >= at_least, "{key} has lost entries");
    rows
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = TextStream::new(skip_special);
    let mut text: String = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
    text += &stream.finish();
    text
}

#[test]
fn golden_encode_and_decode() {
    let (tokenizer, expected) = (tokenizer(GOLDEN), expected(GOLDEN));
    for row in rows(&expected, "encode", 28) {
        let text = row["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, false, true).unwrap(), ids(&row["ids"]), "{text:?}");
        assert_eq!(tokenizer.encode(text, true, true).unwrap(), ids(&row["ids_with_bos"]), "{text:?}");
        let tokens: Vec<Value> = ids(&row["ids"]).iter().map(|id| expected["token_bytes_hex"][*id as usize].clone()).collect();
        let bytes: Vec<u8> = ids(&row["ids"]).iter().flat_map(|&id| tokenizer.token_bytes(id)).collect();
        assert_eq!(bytes, text.as_bytes(), "{tokens:?}");
    }
    for row in rows(&expected, "decode", 33) {
        for (key, skip) in [("text", false), ("text_skip_special", true)] {
            let made = tokenizer.decode(&ids(&row["ids"]), skip).unwrap();
            assert_eq!(made, row[key].as_str().unwrap());
            assert_eq!(streamed(&tokenizer, &ids(&row["ids"]), skip), made);
        }
    }
}

#[test]
fn golden_tokens() {
    let (tokenizer, expected) = (tokenizer(GOLDEN), expected(GOLDEN));
    assert_eq!(tokenizer.vocab_size() as u64, expected["vocab_size"].as_u64().unwrap());
    for (id, hex) in rows(&expected, "token_bytes_hex", 768).iter().enumerate() {
        let bytes = tokenizer.token_bytes(id as u32);
        assert_eq!(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(), hex.as_str().unwrap(), "token {id}");
    }
    let special = expected["special"].as_object().unwrap();
    let made = tokenizer.special_tokens();
    assert_eq!(made.len(), special.len());
    for (token, id) in made {
        assert_eq!(special[&token].as_u64().unwrap(), u64::from(id));
        assert_eq!(tokenizer.token_id(&token), Some(id));
        assert!(tokenizer.is_special(id));
    }
    assert!(!tokenizer.is_special(16) && !tokenizer.is_special(u32::MAX) && tokenizer.token_id("<|no|>").is_none());
}

#[test]
fn golden_stream() {
    let (tokenizer, expected) = (tokenizer(GOLDEN), expected(GOLDEN));
    for row in rows(&expected, "stream", 2) {
        let mut stream = TextStream::new(true);
        let pieces: Vec<String> = ids(&row["ids"]).iter().map(|&id| stream.push(&tokenizer, id)).collect();
        assert_eq!(json!(pieces), row["pieces"]);
        assert_eq!(stream.finish(), "");
    }
}

#[test]
fn golden_chat_model_text() {
    let expected = expected(CHAT_MODEL);
    let stop = ids(&expected["stop_tokens"]);
    for run in rows(&expected, "runs", 2) {
        let kept: Vec<u32> = ids(&run["greedy_ids"]).into_iter().filter(|id| !stop.contains(id)).collect();
        assert_eq!(streamed(&tokenizer(CHAT_MODEL), &kept, true), run["text"].as_str().unwrap());
    }
}

#[test]
fn the_bard_reads_and_writes() {
    let (tokenizer, expected) = (tokenizer(BARD), expected(BARD));
    for run in rows(&expected, "runs", 8) {
        let mut prompt = vec![tokenizer.token_id("<|begin_of_text|>").unwrap()];
        prompt.extend(tokenizer.encode(run["prompt"].as_str().unwrap(), false, true).unwrap());
        assert_eq!(prompt, ids(&run["prompt_ids"]));
        assert_eq!(streamed(&tokenizer, &ids(&run["greedy_ids"]), false), run["text"].as_str().unwrap());
    }
}

#[test]
fn special_tokens_in_a_text_can_be_forbidden() {
    let tokenizer = tokenizer(GOLDEN);
    let text = "a<|end_of_text|>";
    let parsed = tokenizer.encode(text, false, true).unwrap();
    let literal = tokenizer.encode(text, false, false).unwrap();
    assert_eq!(parsed.last(), Some(&1));
    assert!(literal.iter().all(|&id| !tokenizer.is_special(id)), "{literal:?}");
    assert_eq!(tokenizer.decode(&literal, true).unwrap(), text);
    // The begin-of-text token is the tokenizer's doing, not the text's.
    assert_eq!(tokenizer.encode(text, true, false).unwrap()[0], 0);
    // Asking once does not change what the other way gives.
    assert_eq!(tokenizer.encode(text, false, true).unwrap(), parsed);
}

#[test]
fn an_unfinished_character_waits_and_ends_as_u_fffd() {
    let tokenizer = tokenizer(GOLDEN);
    let dog = tokenizer.encode("🐕", false, true).unwrap();
    assert!(dog.len() >= 2, "the test needs a character of several tokens");
    let mut stream = TextStream::new(true);
    for &id in &dog[..dog.len() - 1] {
        assert_eq!(stream.push(&tokenizer, id), "");
    }
    assert_eq!(stream.push(&tokenizer, dog[dog.len() - 1]), "🐕");
    assert_eq!(stream.push(&tokenizer, dog[0]), "");
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(stream.finish(), "");
    // A special token that is skipped does not come between the bytes; a letter does.
    stream.push(&tokenizer, dog[0]);
    assert_eq!(stream.push(&tokenizer, 1), "");
    assert_eq!(stream.push(&tokenizer, tokenizer.token_id("a").unwrap()), "\u{fffd}a");
}

#[test]
fn ids_without_a_token_add_nothing() {
    let tokenizer = tokenizer(GOLDEN);
    assert_eq!(tokenizer.token_bytes(768), b"");
    assert_eq!(tokenizer.decode(&[516, 768, u32::MAX, 330], false).unwrap(), "Hell");
    assert_eq!(streamed(&tokenizer, &[516, 768, u32::MAX, 330], false), "Hell");
}

#[test]
fn broken_tokenizers_are_named() {
    let good = std::fs::read_to_string(Path::new(GOLDEN).join("tokenizer.json")).unwrap();
    let change = |pointer: &str, value: Value| {
        let mut json: Value = serde_json::from_str(&good).unwrap();
        *json.pointer_mut(pointer).unwrap() = value;
        json.to_string().into_bytes()
    };
    let broken: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        vec![0xff, 0xfe, 0],
        good.as_bytes()[..good.len() / 2].to_vec(),
        [b"\xef\xbb\xbf", good.as_bytes()].concat(),
        change("/model/type", json!("Unheard")),
        change("/model/vocab", json!([1, 2])),
        change("/model/vocab", json!({"a": -1})),
        change("/model/merges", json!(["a b c d"])),
        change("/model/merges", json!([["no-such", "token"]])),
        change("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(unclosed")),
        change("/pre_tokenizer", json!(7)),
        change("/decoder", Value::Null),
        change("/decoder", json!({"type": "WordPiece", "prefix": "##", "cleanup": true})),
        change("/post_processor/processors/1/special_tokens", json!({})),
        change("/post_processor/processors/1/single", json!([{"Sequence": {"id": "B", "type_id": 0}}])),
        change("/model/continuing_subword_prefix", json!("longer than any token")),
    ];
    for (i, bytes) in broken.iter().enumerate() {
        let error = Tokenizer::from_bytes(bytes).map(|_| panic!("{i} was read")).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }) && error.is_model_error(), "{i}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json does not exist"), "{error}");
}

#[test]
fn odd_tokenizers_do_not_panic() {
    let odd = |pointer: &str, value: Value| {
        let mut json: Value =
            serde_json::from_str(&std::fs::read_to_string(Path::new(GOLDEN).join("tokenizer.json")).unwrap()).unwrap();
        *json.pointer_mut(pointer).unwrap() = value;
        Tokenizer::from_bytes(json.to_string().as_bytes())
    };
    let token = |id: u32, content: &str, special: bool| json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let mut refused = Vec::new();
    for (pointer, value) in [
        ("/model/vocab/!", json!(u32::MAX)),
        ("/model/vocab", json!({})),
        ("/model/vocab/!", json!(17)),
        ("/model/merges", json!([])),
        ("/added_tokens", json!([])),
        ("/added_tokens", json!([token(0, "", true)])),
        ("/added_tokens", json!([token(u32::MAX, "<far>", true), token(5, "<far>", false)])),
        ("/added_tokens", json!([token(900, "an añadido", false)])),
        ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(a+)+$|")),
        ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("")),
    ] {
        let tokenizer = match odd(pointer, value) {
            Ok(tokenizer) => tokenizer,
            Err(Error::Tokenizer { .. }) => {
                refused.push(pointer);
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        let ids = tokenizer.encode("aaaaaaaaaaaaaaaaaaaaaaaaaaaaab!<far> an añadido ", true, true).unwrap();
        assert_eq!(streamed(&tokenizer, &ids, false), tokenizer.decode(&ids, false).unwrap());
        assert!(tokenizer.vocab_size() < 2000);
    }
    assert_eq!(refused, ["/model/vocab"]);
}

/// Rules run one after another multiply: a file of a kilobyte could ask for more than any memory.
#[test]
fn rules_that_make_much_of_little_are_refused() {
    let with = |key: &str, value: Value| {
        let mut json: Value =
            serde_json::from_str(&std::fs::read_to_string(Path::new(GOLDEN).join("tokenizer.json")).unwrap()).unwrap();
        json[key] = value;
        Tokenizer::from_bytes(json.to_string().as_bytes())
    };
    let sequence = |rule: Value, n: usize| json!({"type": "Sequence", "normalizers": vec![rule; n]});
    let replace = || json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"});
    let between = json!({"type": "Replace", "pattern": {"Regex": "b*"}, "content": "b"});
    let odd_byte_level = json!({"type": "ByteLevel", "content": ""});
    let spelled = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false});
    let twice = json!({"Sequence": {"id": "A", "type_id": 0}});
    for (key, rule, why) in [
        ("normalizer", sequence(replace(), 4), "256 times"),
        ("normalizer", sequence(sequence(replace(), 2), 2), "256 times"),
        ("normalizer", sequence(replace(), 99), "times"),
        ("normalizer", sequence(between, 7), "128 times"),
        ("normalizer", sequence(odd_byte_level, 7), "128 times"),
        ("normalizer", json!({"type": "Prepend", "prepend": "a".repeat(64)}), "65 times"),
        ("pre_tokenizer", json!({"type": "Sequence", "pretokenizers": vec![spelled; 7]}), "128 times"),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": vec![twice; 65], "pair": [], "special_tokens": {}}),
            "a list of 65",
        ),
    ] {
        let error = with(key, rule).map(|_| panic!("{key} of {why} was read")).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let tokenizer = with("normalizer", sequence(replace(), 3)).unwrap();
    let ids = tokenizer.encode("a", false, true).unwrap();
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "a".repeat(64));
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    with("normalizer", json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, space]})).unwrap();
}

#[test]
fn truncation_and_padding_in_the_file_are_not_applied() {
    let mut json: Value =
        serde_json::from_str(&std::fs::read_to_string(Path::new(GOLDEN).join("tokenizer.json")).unwrap()).unwrap();
    json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2, "pad_type_id": 0, "pad_token": "<|finetune_right_pad_id|>"});
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.encode("Hello", true, true).unwrap(), [0, 516, 330, 94]);
}

/// All that `pieces` give out, and the stop string found.
fn until_stop(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
    let mut stop = StopStrings::new(stops.iter().map(|s| s.to_string()).collect()).unwrap();
    let mut out = Vec::new();
    for piece in pieces {
        match stop.push(piece) {
            Stopped::No(text) => out.push(text),
            Stopped::At(text, i) => {
                out.push(text);
                return (out, Some(i));
            }
        }
    }
    out.push(stop.finish());
    (out, None)
}

#[test]
fn stop_strings_are_found_across_pieces_and_not_given_out() {
    let text = |strings: &[&str]| strings.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    assert_eq!(until_stop(&["STOP"], &["a S", "T", "OP b"]), (text(&["a ", "", ""]), Some(0)));
    assert_eq!(until_stop(&["STOP"], &["a S", "TO", "x"]), (text(&["a ", "", "STOx", ""]), None));
    assert_eq!(until_stop(&["STOP"], &["a ST"]), (text(&["a ", "ST"]), None));
    // The beginning of a match inside a beginning that failed.
    assert_eq!(until_stop(&["aab"], &["a", "a", "a", "b"]), (text(&["", "", "a", ""]), Some(0)));
    // Complete first wins, however the text is cut; together, the longer one.
    assert_eq!(until_stop(&["abc", "b"], &["abc"]), (text(&["a"]), Some(1)));
    assert_eq!(until_stop(&["abc", "b"], &["a", "bc"]), (text(&["", "a"]), Some(1)));
    assert_eq!(until_stop(&["c", "bc"], &["abc"]), (text(&["a"]), Some(1)));
    assert_eq!(until_stop(&["🐕é"], &["x🐕", "🐕", "é"]), (text(&["x", "🐕", ""]), Some(0)));
    assert_eq!(until_stop(&[], &["all ", "of it"]), (text(&["all ", "of it", ""]), None));
    assert!(matches!(StopStrings::new(vec![String::new()]), Err(Error::BadArgument { what: "stop", .. })));
}

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| tokenizer(GOLDEN));

proptest! {
    #[test]
    fn streams_give_what_decode_gives(ids in prop::collection::vec(0u32..800, 0..60), skip_special: bool) {
        prop_assert_eq!(streamed(&TOKENIZER, &ids, skip_special), TOKENIZER.decode(&ids, skip_special).unwrap());
    }

    #[test]
    fn any_text_survives_encoding(text in ".{0,40}", parse_special: bool) {
        let ids = TOKENIZER.encode(&text, false, parse_special).unwrap();
        prop_assert_eq!(TOKENIZER.decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn stopping_does_not_depend_on_the_cut(text in "[ab🐕]{0,12}", stops in prop::collection::vec("[ab🐕]{1,4}", 0..3), cuts in prop::collection::vec(0usize..4, 1..8)) {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let chars: Vec<char> = text.chars().collect();
        let (mut pieces, mut at) = (Vec::new(), 0);
        for cut in cuts.iter().cycle().take(60) {
            let end = (at + cut).min(chars.len());
            pieces.push(chars[at..end].iter().collect::<String>());
            at = end;
        }
        pieces.push(chars[at..].iter().collect());
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let (one, cut) = (until_stop(&stops, &[&text]), until_stop(&stops, &pieces));
        prop_assert_eq!((one.0.concat(), one.1), (cut.0.concat(), cut.1));
    }
}
