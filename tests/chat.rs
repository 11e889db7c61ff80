//! Chat templates: every golden chat, where templates come from, and hostile ones. See jinja.rs for the language.
#![cfg(feature = "text")]

use std::path::Path;

use doge_engine::{ChatFiles, ChatInput, ChatTemplate, Error, Tokenizer};
use serde_json::{json, Value};

const BARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/doge-bard");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizer");
const CHAT_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chat_model");

fn assert_chats(folder: &str, key: &str, ids_key: &str, count: usize) {
    let expected: Value =
        serde_json::from_str(&std::fs::read_to_string(Path::new(folder).join("expected.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::from_folder(Path::new(folder)).unwrap();
    let rows = expected[key].as_array().unwrap();
    assert_eq!(rows.len(), count);
    let template = ChatTemplate::from_folder(Path::new(folder), None).unwrap();
    for row in rows {
        let input = ChatInput::new(row["messages"].as_array().unwrap())
            .add_generation_prompt(row["add_generation_prompt"].as_bool().unwrap_or(true))
            .variables(row["kwargs"].as_object().cloned().unwrap_or_default());
        let text = template.render(&input).unwrap();
        if let Some(rendered) = row["rendered"].as_str() {
            assert_eq!(text, rendered);
        }
        assert_eq!(json!(tokenizer.encode(&text, false, true).unwrap()), row[ids_key], "{text}");
    }
}

#[test]
fn golden_chats() {
    assert_chats(GOLDEN, "chat", "ids", 9);
    assert_chats(CHAT_MODEL, "runs", "prompt_ids", 2);
}

#[test]
fn the_bard_has_a_template() {
    let template = ChatTemplate::from_folder(Path::new(BARD), None).unwrap();
    let messages = [json!({"role": "user", "content": "Who's there?"})];
    let text = template.render(&ChatInput::new(&messages).add_generation_prompt(true)).unwrap();
    assert_eq!(
        text,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\nWho's there?<|end_of_text|>\n<|start_header_id|>assistant<|end_header_id|>\n"
    );
}

fn render(source: &str, messages: &[Value]) -> Result<String, Error> {
    let template = ChatTemplate::from_files(ChatFiles::default().chat_template(source))?;
    template.render(&ChatInput::new(messages))
}

fn why(made: Result<String, Error>) -> String {
    match made {
        Err(Error::ChatTemplate { why }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hostile_templates_end_with_a_named_error() {
    let forever = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    assert!(why(render(forever, &[])).contains("loop forever"));
    assert!(why(render(
        "{% set ns = namespace(s='x') %}{% for i in range(99999) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        &[]
    ))
    .contains("loop forever"));
    assert!(why(render("{{ 'x' * 99999999999 }}", &[])).contains("loop forever"));
    assert!(why(render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", &[])).contains("recursion"));
    assert!(!why(render(&format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000)), &[])).is_empty());
    assert!(!why(render(&"{% if true %}".repeat(5000), &[])).is_empty());
    assert!(why(render("{{ raise_exception('roles must alternate') }}", &[]))
        .ends_with("refuses these messages: roles must alternate"));
    assert!(why(render("{% set d = {} %}{{ d.nope.nope }}", &[])).contains("undefined"));
    assert!(!why(render("{{ strftime_now('%!') }}", &[])).is_empty());
    assert!(!why(render("{% include 'other' %}", &[])).is_empty());
    let deep = (0..300).fold(json!([]), |inner, _| json!([inner]));
    assert!(why(render("{{ messages[0] | tojson }}", &[json!({"x": deep})])).contains("nested"));
}

/// minijinja calls itself once for each of these operators, and for each branch.
#[test]
fn endless_chains_do_not_overflow_the_stack() {
    let most = 64 << 10;
    for (before, link, after) in [
        ("{{", " not", " x}}"),
        ("{{", "-", "1}}"),
        ("{{1", "+1", "}}"),
        ("{{1", "|string", "}}"),
        ("{{messages", ".a", "}}"),
        ("{{x", "()", "}}"),
        ("{{1", " if 1 else 1", "}}"),
        ("{%if x%}", "{%elif x%}", "{%endif%}"),
    ] {
        let chain = |bytes: usize| format!("{before}{}{after}", link.repeat((bytes - before.len() - after.len()) / link.len()));
        match render(&chain(most), &[]) {
            Ok(_) | Err(Error::ChatTemplate { .. }) => {}
            other => panic!("{link}: {other:?}"),
        }
        assert!(why(render(&chain(most + 2 * link.len()), &[])).contains("65536 are beyond reason"), "{link}");
        assert!(why(render(&chain(1 << 20), &[])).contains("65536 are beyond reason"), "{link}");
    }
}

/// Values in a cycle, or nested by a loop, a macro or a recursive loop: to print, compare or drop them takes stack by level.
#[test]
fn deep_values_do_not_overflow_the_stack() {
    let turns = |set: &str| format!("{{% set ns = namespace() %}}{{% for i in range(90000) %}}{set}{{% endfor %}}{{{{ ns.x }}}}");
    for (source, expected) in [
        ("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}".to_owned(), "cannot keep a namespace"),
        (
            "{% set a = namespace() %}{% set b = namespace(y=a) %}{% set a.x = [{'b': b}] %}{{ a == b }}".to_owned(),
            "cannot keep a namespace",
        ),
        ("{% set ns = namespace() %}{% for i in [1] %}{% set ns.me = loop %}{% endfor %}".to_owned(), "cannot keep a loop"),
        (turns("{% set ns.x = [ns.x] %}"), "nested deeper than 64"),
        (turns("{% set ns.x = {'x': ns.x} %}"), "nested deeper than 64"),
        (turns("{%- set ns.x = '%}', (ns.x,) -%}"), "nested deeper than 64"),
        (turns("{% set ns.x, ns = [ns.x], 1 %}"), "nested deeper than 64"),
        (turns("{% set (ns.x, i) = [ns.x], 1 %}"), "nested deeper than 64"),
        (turns("{% set ns.x | default([ns.x], true) %}{% endset %}"), "nested deeper than 64"),
        (turns("{% set ns.x = [ns.x, ns.x] %}"), "loop forever"),
    ] {
        let why = why(render(&source, &[]));
        assert!(why.contains(expected), "{source}: {why}");
    }
    // An iterator over an iterator over …
    for set in ["ns.x[0:]", "ns.x | reverse", "ns.x * 1", "ns.x + []", "(ns.x | items) if ns.x is mapping else {1: 2}"] {
        let end = "{{ ns.x | list | length }}";
        let source = turns(&format!("{{% set ns.x = {set} %}}")).replace("namespace()", "namespace(x=[1])") + end;
        assert!(render(&source, &[]).unwrap().ends_with('1'), "{set}");
    }
    let source = "{% set ns = namespace() %}{% set ns.x = {'a': (1, [2][0:]), 'b': range(2)} %}{{ ns.x }}{{ ns.x.a[1][0] }}";
    assert_eq!(render(source, &[]).unwrap(), "{'a': (1, [2]), 'b': [0, 1]}2");
    let nest = format!("{{% set x = {}x{} %}}", "[".repeat(40), "]".repeat(40)).repeat(500);
    for head in [
        "{% macro m(x, n) %}BODY{% if n %}{{ m(x, n - 1) }}{% else %}USE{% endif %}{% endmacro %}{{ m([], COUNT) }}",
        "{% for x in [[]] recursive %}BODY{% if loop.depth <= COUNT %}{{ loop([x]) }}{% else %}USE{% endif %}{% endfor %}",
    ] {
        for used in ["{{ x }}", "{{ x == [x] }}", "{{ [x] < x }}"] {
            let source = |body: &str, count: &str| head.replace("BODY", body).replace("USE", used).replace("COUNT", count);
            assert!(why(render(&source(&nest, "20"), &[])).contains("recursion limit"), "{used}");
            assert!(render(&source(&nest[..nest.len() / 10], "0"), &[]).is_ok(), "{used}");
            // No published template has more of these.
            assert!(render(&source(&format!("{{# {} #}}", "(".repeat(720)), "12"), &[]).is_ok(), "{used}");
        }
    }
}

/// What is made by a filter or method, or by printing, without an instruction for each byte.
#[test]
fn work_in_filters_and_methods_is_counted() {
    let doubled = format!("{{% set x = [0] %}}{}", "{% set x = [x, x] %}".repeat(60));
    for source in [
        "{{ range(90000) | list | tojson(indent='a' * 5000000) }}",
        "{{ range(90000) | list | tojson(separators=['a' * 5000000, ':']) }}",
        "{{ [[[0] * 90000] * 90000] | tojson }}",
        &format!("{doubled}{{{{ x | tojson }}}}"),
        &format!("{doubled}{{{{ x }}}}"),
        &format!("{doubled}{{{{ x | string }}}}"),
        &format!("{doubled}{{{{ '%s' | format(x) }}}}"),
        "{% set x = 'a' * 1000000 %}{{ ([x] * 1000000) | join }}",
        "{% set x = 'a' * 1000000 %}{{ ''.join([x] * 1000000) }}",
        "{% set x = 'a' * 1000000 %}{{ ('{0}' * 1000000).format(x) }}",
        "{% set x = 'a' * 1000000 %}{{ ('%(x)s' * 1000000) | format(x=x) }}",
        "{{ ('{0:9999}' * 1000000).format(1) }}",
    ] {
        let why = why(render(source, &[]));
        assert!(why.contains("loop forever"), "{source}: {why}");
    }
    for (format, value) in
        [("{:100000000000d}", "1"), ("{:.100000000000f}", "1.5"), ("{:}<99999}", "1"), ("{0:x>010000,.2f}", "1")]
    {
        let why = why(render(&format!("{{{{ '{format}'.format({value}) }}}}"), &[]));
        assert!(why.contains("more than 9999"), "{format}: {why}");
    }
    assert_eq!(render("{{ '{:>5}|{:.2f} of 100000 {{x}} 20000'.format(1, 2) }}", &[]).unwrap(), "    1|2.00 of 100000 {x} 20000");
    assert!(why(render("{{ ['a', 'b'] | sum(start='') }}", &[])).contains("cannot add strings"));
    assert_eq!(render("{{ [1, 2] | sum }}{{ [[1], [2]] | sum(start=[]) }}", &[]).unwrap(), "3[1, 2]");
    let why = why(render("{{ raise_exception('ä' * 5000000) }}", &[]));
    assert!(why.ends_with("ää…") && why.chars().count() < 1100, "{}", why.len());
}

/// A template may collect what it will write in a namespace.
#[test]
fn a_namespace_may_collect_a_long_conversation() {
    let source = "{% set ns = namespace(all=[], text='') %}\
        {% for m in messages %}{% set ns.all = ns.all + [m] %}{% set ns.role = m.role %}{% endfor %}\
        {% for m in ns.all[1:] %}{{ m.content }}{% endfor %}{{ ns.role }}";
    let messages: Vec<Value> = (0..2500).map(|_| json!({"role": "user", "content": "wort ".repeat(80)})).collect();
    assert_eq!(render(source, &messages).unwrap().len(), 2499 * 400 + 4);
    let source = "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text ~ m.content %}{% endfor %}{{ ns.text }}";
    let messages: Vec<Value> = (0..500).map(|_| json!({"role": "user", "content": "wort ".repeat(400)})).collect();
    assert_eq!(render(source, &messages[..]).unwrap().len(), 1_000_000);
}

#[test]
fn a_long_conversation_is_no_endless_loop() {
    let message = |i: usize| json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": "wort ".repeat(80)});
    let messages: Vec<Value> = (0..5000).map(message).collect();
    let template = ChatTemplate::from_folder(Path::new(GOLDEN), None).unwrap();
    let text = template.render(&ChatInput::new(&messages)).unwrap();
    assert!(text.len() > 2_000_000);
}

#[test]
fn the_date_is_available() {
    let year: u32 = render("{{ strftime_now('%Y') }}", &[]).unwrap().parse().unwrap();
    assert!(year >= 2024);
    let date = render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap();
    assert_eq!(date.len(), "26 Jul 2024".len(), "{date}");
}

#[test]
fn templates_come_from_where_the_checkpoint_has_them() {
    let config = |template: Value| {
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null, "chat_template": template}).to_string()
    };
    let make = |file: Option<&str>, template: Value, map: Option<&str>, tools: Option<&[Value]>| {
        let config = config(template);
        let files = ChatFiles::default().chat_template(file).tokenizer_config(config.as_str()).special_tokens_map(map);
        ChatTemplate::from_files(files)?.render(&ChatInput::default().tools(tools))
    };
    let source = "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ tools is none }}";
    assert_eq!(make(None, json!(source), None, None).unwrap(), "<s></s>True");
    assert_eq!(
        make(None, json!(source), Some(r#"{"pad_token": "<p>", "bos_token": "<other>"}"#), None).unwrap(),
        "<s></s><p>True"
    );
    assert_eq!(make(Some("file"), json!(source), None, None).unwrap(), "file");
    let named = json!([{"name": "rag", "template": "{% broken"}, {"name": "tool_use", "template": "T{{ tools | length }}"}, {"name": "default", "template": "D"}]);
    assert_eq!(make(None, named.clone(), None, None).unwrap(), "D");
    assert_eq!(make(None, named, None, Some(&[json!({})])).unwrap(), "T1");
    assert!(why(make(None, json!([{"name": "tool_use", "template": "T"}]), None, None)).contains("for tools only"));
    assert!(why(make(None, json!([{"name": "rag", "template": "R"}]), None, None)).contains("none is 'default'"));
    assert!(why(make(None, Value::Null, None, None)).contains("`generate`"));
    assert!(matches!(make(None, json!(5), None, None), Err(Error::BadConfig { .. })));
    assert!(matches!(make(None, json!([{"name": "default"}]), None, None), Err(Error::BadConfig { .. })));
    let bad_json = ChatFiles::default().tokenizer_config("{").chat_template("x");
    assert!(matches!(ChatTemplate::from_files(bad_json), Err(Error::BadConfig { .. })));
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(ChatTemplate::from_folder(folder.path(), None), Err(Error::ChatTemplate { .. })));
    assert!(ChatTemplate::from_folder(folder.path(), Some("mine")).is_ok());
}

#[test]
fn inputs_of_a_rendering_are_checked() {
    let template = ChatTemplate::from_files(ChatFiles::default().chat_template("{{ x }}{{ documents }}")).unwrap();
    let messages = [json!("not an object")];
    assert!(matches!(template.render(&ChatInput::new(&messages)), Err(Error::BadArgument { what: "messages", .. })));
    let variables = json!({"tools": 1}).as_object().unwrap().clone();
    assert!(matches!(
        template.render(&ChatInput::default().variables(variables)),
        Err(Error::BadArgument { what: "variables", .. })
    ));
    let documents = [json!("not an object")];
    let documents = template.render(&ChatInput::default().documents(&documents[..]));
    assert!(matches!(documents, Err(Error::BadArgument { what: "documents", .. })));
    let variables = json!({"x": [1.5, "ü"]}).as_object().unwrap().clone();
    let documents = [json!({"title": "t"})];
    let input = ChatInput::default().variables(variables).documents(&documents[..]);
    assert_eq!(template.render(&input).unwrap(), "[1.5, 'ü'][{'title': 't'}]");
}

#[test]
fn variables_win_over_special_tokens() {
    let files = ChatFiles::default().chat_template("{{ bos_token }}").tokenizer_config(r#"{"bos_token": "<s>"}"#);
    let template = ChatTemplate::from_files(files).unwrap();
    assert_eq!(template.render(&ChatInput::default()).unwrap(), "<s>");
    let variables = json!({"bos_token": "mine"}).as_object().unwrap().clone();
    assert_eq!(template.render(&ChatInput::default().variables(variables)).unwrap(), "mine");
}

#[test]
fn end_of_turn_tokens_are_those_the_template_writes() {
    let of = |source| ChatTemplate::from_files(ChatFiles::default().chat_template(source)).unwrap().end_of_turn_tokens().to_vec();
    assert_eq!(of("{{ x }}<|im_end|>"), ["<|im_end|>"]);
    assert_eq!(of("{{ '<|eot_id|>' }}"), ["<|eot_id|>"]);
    assert!(ChatTemplate::from_folder(Path::new(GOLDEN), None).unwrap().end_of_turn_tokens().is_empty());
}
