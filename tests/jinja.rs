//! Chat templates against jinja2 as transformers sets it up. The rows are made by tests/fixtures/jinja/make.py.
#![cfg(feature = "text")]

use doge_engine::{ChatFiles, ChatInput, ChatTemplate};
use serde_json::{json, Value};

#[test]
fn templates_render_as_jinja2_renders_them() {
    let expected: Value = serde_json::from_str(include_str!("fixtures/jinja/expected.json")).unwrap();
    let mut wrong = String::new();
    let rows = expected["rows"].as_array().unwrap();
    for row in rows {
        let mut variables = row["variables"].as_object().unwrap().clone();
        let messages = variables.shift_remove("messages").unwrap_or(json!([]));
        let source = row["template"].as_str().unwrap();
        let files = ChatFiles::default().chat_template(source);
        let input = ChatInput::new(messages.as_array().unwrap()).variables(variables);
        let made = ChatTemplate::from_files(files).and_then(|template| template.render(&input));
        let right = match (&made, row["text"].as_str()) {
            (Ok(made), Some(text)) => made == text,
            (Err(_), None) => true,
            _ => false,
        };
        if !right {
            wrong += &format!("{source}\n  expected {}\n  made     {made:?}\n", row["text"]);
        }
    }
    assert!(rows.len() >= 70 && wrong.is_empty(), "\n{wrong}");
}
